"""Run programs to which file permissions apply, even if the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

# A user id that no process here has.
_OTHER_USER = 54321
_ORDINARY_USER = 65534
# The users that tests can run as.
USERS = (os.getuid(), _ORDINARY_USER) if os.getuid() == 0 else (os.getuid(),)


def command(argv: Sequence[str]) -> list[str]:
    """Return `argv` as a command that obeys file permissions."""
    if os.geteuid() != 0:
        return list(argv)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--", *argv]


def as_user(user: int, *, may_write: bool = True) -> list[str]:
    """Return the beginning of a command that runs as `user`, if the tests run as root.

    Permissions do not keep it from using the checkout, its interpreter and the cache, which may be in root's home.
    Without `may_write` it can read and run all files, but write only those that the user may write.
    """
    if user == os.getuid():
        return []
    # With the secure bit, access(2), with which shells look for programs, respects the capability.
    name = "dac_override" if may_write else "dac_read_search"
    capability = (f"--inh-caps=+{name}", f"--ambient-caps=+{name}", "--securebits=+no_setuid_fixup")
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *capability, "--"]


def close_off(path: Path) -> None:
    """Make `path` unreadable for programs started by `command`, like a file that `sudo` left to another user."""
    path.chmod(0o700 if os.geteuid() == 0 else 0)
    if os.geteuid() == 0:
        os.chown(path, _OTHER_USER, _OTHER_USER)


def run_as_user(user: int, work: Callable[[], None]) -> None:
    """Run `work` in a child process of `user`; fail with the exception that it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if user != os.getuid():
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            work()
            status = 0
        except BaseException as error:  # noqa: BLE001 (the parent reports it)
            os.write(writer, repr(error).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, text
