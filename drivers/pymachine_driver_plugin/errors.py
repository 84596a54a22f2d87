"""The error of a plug-in program that does not follow the protocol."""

from pymachine.driver.errors import DriverError


class PluginError(DriverError):
    """A plug-in program cannot be started, ended too early, does not answer, or answers something impossible."""

    code = "plugin"
