"""What docs/pool.md says of asyncpg's own tests."""

import re

from packages.lifeguard.tests.checkout import ROOT
from packages.lifeguard.tests.peers.left_out import LEFT_OUT


def test_those_that_are_left_out_are_documented_with_the_reason() -> None:
    text = (ROOT / "docs/pool.md").read_text(encoding="utf-8")
    section = text.partition("\n### asyncpg's own tests\n")[2].partition("\n#")[0]
    rows = (line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| "))
    documented = {why: set(re.findall(r"`([^`]+)`", tests)) for why, tests in rows if why != "why"}
    assert documented == {why: {name.rpartition(".")[2] for name in names} for why, names in LEFT_OUT.items()}
