"""Programs that refuse to run as root, run as somebody else.

PostgreSQL does not start as root, yet containers and CI machines often have no other user. There
the server runs as the owner of its data, else as `postgres` or `nobody`. That user often cannot
enter the checkout (`/root`, `mktemp -d`): `setpriv` of util-linux gives it the one capability that
can, so no permission outside the data directory changes.
"""

import functools
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SUBSTITUTES = ("postgres", "nobody")
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
}  # no PG* variable of the user's
DIE_WITH_PARENT = (
    "--pdeathsig",
    "QUIT",
)  # an immediate shutdown: what is left behind ends in seconds
# The secure bit lets the capability count in access(2) too, by which initdb looks for its binaries.
ENTER_EVERYWHERE = (
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",
)


@dataclass(frozen=True)
class Account:
    """Who runs the server's programs: `uid` and `gid`, or, when they are None, this very user.

    `prefix` is the program that makes it so; without one, a plain change of user does.
    """

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    def own(self, path: Path) -> None:
        """Give `path`, and nothing below or above it, to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a short program to its end."""
        with self._start(command, subprocess.PIPE, subprocess.PIPE) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def spawn(self, command: Sequence[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a server in a session of its own, so that a terminal's Ctrl-C passes it by."""
        return self._start(command, output, subprocess.STDOUT, new_session=True)

    def _start(
        self,
        command: Sequence[str],
        output: IO[bytes] | int,
        errors: int,
        *,
        new_session: bool = False,
    ) -> subprocess.Popen[bytes]:
        switches = self.uid is not None and not self.prefix
        return subprocess.Popen(  # noqa: S603 - our own binaries
            [*self.prefix, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=new_session,
            env=ENVIRONMENT,
            user=self.uid if switches else None,
            group=self.gid if switches else None,
            extra_groups=[] if switches else None,
        )


def account_for(data: Path, program: Path) -> Account:
    """The account for the cluster in `data`: this user, or for root another that can run `program`.

    Raises LookupError when there is no such user, PermissionError when it cannot run the program.
    """
    setpriv = _setpriv()
    if os.geteuid() != 0:
        return Account(prefix=(setpriv, *DIE_WITH_PARENT) if setpriv else ())
    user = _owner(data) or _substitute()
    plain = Account(user.pw_uid, user.pw_gid)
    if setpriv is None:
        accounts = [plain]
    else:
        ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        prefix = (setpriv, *ids, *DIE_WITH_PARENT)
        prefixes = [(*prefix, *ENTER_EVERYWHERE), prefix]
        accounts = [Account(user.pw_uid, user.pw_gid, prefix) for prefix in prefixes]
    for account in accounts:
        if _can_run(account, program):
            return account
    raise PermissionError(
        f"PostgreSQL does not run as root, and the user {user.pw_name} cannot run {program}"
    )


def _can_run(account: Account, program: Path) -> bool:
    try:
        return account.run([str(program), "--version"]).returncode == 0
    except OSError:
        return False


def _owner(data: Path) -> pwd.struct_passwd | None:
    uid = data.stat().st_uid if data.exists() else 0
    return pwd.getpwuid(uid) if uid != 0 else None


def _substitute() -> pwd.struct_passwd:
    for name in SUBSTITUTES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError(f"PostgreSQL does not run as root, and there is no user {SUBSTITUTES[-1]}")


@functools.cache
def _setpriv() -> str | None:
    """The path of util-linux's setpriv; BusyBox's applet of that name cannot do what is needed."""
    path = shutil.which("setpriv")
    if path is None:
        return None
    usage = subprocess.run([path, "--help"], capture_output=True, check=False)  # noqa: S603
    return path if b"--pdeathsig" in usage.stdout else None
