"""What the fork server of `make run` imports, while somebody presses Ctrl-C."""

import subprocess
import sys
from pathlib import Path

from lifeguard.development import preload
from lifeguard.testing.processes import environment

PRELOADING = """
import signal
before = signal.getsignal(signal.SIGINT)
import lifeguard.development.preload
import sys
print("interrupted" in sys.modules, signal.getsignal(signal.SIGINT) is before)
"""


def test_ctrl_c_does_not_interrupt_an_import_and_is_as_before_afterwards(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    variables = environment(**{preload.VARIABLE: "interrupted"})
    done = subprocess.run(
        [sys.executable, "-c", PRELOADING],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True True\n", "")
