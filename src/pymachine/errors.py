"""The base class of all errors, and errors that several packages raise. Only `cli` turns them into text.

A module defines its own errors as subclasses of `PymachineError` with a `code`. A test checks that codes are unique.
They never change once released, since scripts match them in ``--json`` output.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar  # importing it takes `env` 3 ms

EXIT_ERROR = 1
EXIT_PRECREATE = 3


class PymachineError(Exception):
    """An error that the user can act on.

    `brief` is one line: what happened, with the wrong value. It is docker-machine's message where it has one.
    `details` is the output of an outside program, or other helpful lines. `hint` says how to fix it.
    """

    code: ClassVar[str] = "error"
    exit_code: int = EXIT_ERROR
    has_lines: bool = False
    """Whether the brief may have line breaks. If not, a line break in a value is escaped."""

    def __init__(self, brief: str, *, details: str = "", hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def prefixed(self, prefix: str) -> PymachineError:
        """Put `prefix` before the brief, as in docker-machine's wrapped errors, and return this error."""
        self.brief = prefix + self.brief
        self.args = (self.brief,)
        return self


class UsageError(PymachineError):
    """The command line or an option's value is invalid."""

    code = "usage"


class MachineNotFoundError(PymachineError):
    """No machine of that name is in the store."""

    code = "machine-not-found"

    def __init__(self, name: str) -> None:
        # docker-machine's message, byte for byte when called by that name (see `cli.errors`): CI runners match it.
        super().__init__(
            f'Docker machine "{name}" does not exist. Use "pymachine ls" to list machines. '
            'Use "pymachine create" to add a new one.'
        )


class MachineExistsError(PymachineError):
    """A machine of that name already exists in the store."""

    code = "machine-exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f'Docker machine "{name}" already exists',
            hint=f"Choose another name, or remove it first: pymachine rm {name}",
        )


class InvalidNameError(PymachineError):
    """A machine's name has characters that a hostname cannot have."""

    code = "invalid-name"


class RecordError(PymachineError):
    """A machine's config.json is not a valid record."""

    code = "bad-record"


class StoreError(PymachineError):
    """The store cannot be read or written (permissions, a full disk, a file where a folder should be)."""

    code = "store"


class LockedError(PymachineError):
    """Another pymachine process held the lock for too long."""

    code = "locked"


class HostNotRunningError(PymachineError):
    """The machine is not running, so it has no address."""

    code = "host-not-running"

    def __init__(self, brief: str = "Host is not running", *, name: str = "") -> None:
        super().__init__(brief, hint=f"Start it: pymachine start {name}" if name else "")


class WrongStateError(PymachineError):
    """The machine's state does not allow the operation (already running, already stopped)."""

    code = "wrong-state"


class DriverNotFoundError(PymachineError):
    """No driver is registered under that name, or it cannot be loaded."""

    code = "driver-not-found"


class DriverError(PymachineError):
    """The hypervisor failed to carry out an operation on a machine."""

    code = "driver"


class TemplateError(DriverError):
    """A template cannot be built or resumed. The machine is booted instead.

    A driver raises it for failures that the template may cause: its files, its state, a guest that does not answer.
    Problems of the machine itself (its identity, its engine options, its ports) are other errors.
    """

    code = "machine-template"


class StaleTemplateError(TemplateError):
    """This host can no longer resume a template: its hypervisor, or how machines are run, has changed."""

    code = "template-stale"


class PrecreateError(DriverError):
    """A requirement of `create` is not met, and nothing was created. Exit code 3, as in docker-machine."""

    code = "precreate"
    exit_code = EXIT_PRECREATE


class UnsupportedError(DriverError):
    """The driver does not support the operation."""

    code = "unsupported"


class TimeoutExpiredError(PymachineError):
    """An expected event did not happen in time."""

    code = "timeout"


class CommandError(PymachineError):
    """An outside command was not found, was ended by a signal, or failed; see `pymachine.system.run`."""

    code = "command"
