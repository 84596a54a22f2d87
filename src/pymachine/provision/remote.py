"""Run scripts as root on a host, over one connection."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from importlib.resources import files as resources

from pymachine.provision.errors import InterruptedStepError, StepError, SudoError
from pymachine.ssh.connection import Connection, ConnectionLostError

NO_SUDO = 77
# The script is sent on stdin, so that its secrets are on no command line and no login shell reads them.
ROOT_SHELL = (
    f"sh -c 'if [ \"$(id -u)\" -eq 0 ]; then exec sh -s; fi; sudo -n true || exit {NO_SUDO}; exec sudo -n sh -s'"
)
BEGIN = "pymachine-begin"
WARNING = "pymachine-warning "
END_OF_FILE = "PYMACHINE_END_OF_FILE"

Line = Callable[[str], None]


def read_part(name: str) -> str:
    """Return the text of one of the scripts in ``scripts/``."""
    return (resources(__package__) / "scripts" / f"{name}.sh").read_text(encoding="utf-8")


def script(body: str, *, parts: tuple[str, ...], variables: Mapping[str, str]) -> str:
    """Return a complete script: the functions of `parts`, then `body` in a function that the last line calls."""
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    functions = "".join(read_part(name) for name in ("common", *parts))
    return f"{settings}{functions}\npymachine_main() {{\n{body}\n}}\npymachine_main\n"


def here_document(text: str) -> str:
    """Return `text` as a here-document, to append to the command that reads it."""
    if END_OF_FILE in text:
        raise ValueError(f"a file has the line {END_OF_FILE}")
    end = "" if text.endswith("\n") or not text else "\n"
    return f"<< '{END_OF_FILE}'\n{text}{end}{END_OF_FILE}"


class Remote:
    """Runs the steps on one host."""

    def __init__(self, connection: Connection, *, name: str, warn: Callable[[str], object]) -> None:
        """`name` is the machine's, for errors. `warn` is called with the warnings of a script."""
        self._connection = connection
        self._name = name
        self._warn = warn

    def run(self, step: str, text: str, *, timeout: float, line: Line | None = None) -> str:
        """Run a script as root and return its output, from the line `BEGIN` on.

        `step` names the step in errors. Raises `SudoError` if the user cannot become root, `StepError` if the script
        fails, and `InterruptedStepError` if the connection breaks.
        """
        try:
            result = self._connection.run(ROOT_SHELL, stdin=text, timeout=timeout, line=line)
        except ConnectionLostError as error:
            raise InterruptedStepError(
                f'the SSH connection to "{self._name}" was lost during the step "{step}"',
                details=error.details,
                hint=f"The changes made so far stay on the host. When it can be reached again, complete them with: "
                f"pymachine provision {self._name}",
            ) from error
        _, begun, output = result.stdout.partition(BEGIN + "\n")
        if result.returncode == NO_SUDO and not begun:
            raise SudoError(
                f'the SSH user of "{self._name}" cannot become root without a password; nothing was changed',
                details=result.stderr.strip(),
                hint="Let that user use sudo without a password (a line such as `USER ALL=(ALL) NOPASSWD: ALL` in "
                "/etc/sudoers.d/), or create the machine with another SSH user.",
            )
        if result.returncode != 0:
            raise StepError(
                f'the step "{step}" failed on "{self._name}" with exit code {result.returncode}',
                details=result.stderr.strip() or output.strip()[-2000:],
            )
        for each in output.splitlines():
            if each.startswith(WARNING):
                self._warn(f"On the host, {each.removeprefix(WARNING)}")
        return BEGIN + "\n" + output
