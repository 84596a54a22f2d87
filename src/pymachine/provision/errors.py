"""What can go wrong while a host is provisioned."""

from __future__ import annotations

from pymachine.errors import PymachineError


class ProvisionError(PymachineError):
    """A host cannot be made a Docker host, or not in this way."""

    code = "provision"


class UnknownSystemError(ProvisionError):
    """There is no provisioner for the host's operating system; nothing was changed on it."""

    code = "provision-os"


class SudoError(ProvisionError):
    """The SSH user can become root only with a password, or not at all; nothing was changed on the host."""

    code = "provision-sudo"


class StepError(ProvisionError):
    """One step failed on the host; the error says which, with its output."""

    code = "provision-step"


class InterruptedStepError(ProvisionError):
    """The connection broke in the middle of a step; `provision` finishes the job."""

    code = "provision-interrupted"


class HostConfigError(ProvisionError):
    """A configuration file on the host cannot be read as what it is, so it is left alone."""

    code = "provision-host-config"
