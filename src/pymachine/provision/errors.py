"""Errors while a host is provisioned."""

from __future__ import annotations

from pymachine.errors import PymachineError


class ProvisionError(PymachineError):
    """A host cannot be set up as a Docker host in this way."""

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
    """The connection broke in the middle of a step. `provision` completes it."""

    code = "provision-interrupted"


class HostConfigError(ProvisionError):
    """A configuration file on the host cannot be parsed, so it is not changed."""

    code = "provision-host-config"
