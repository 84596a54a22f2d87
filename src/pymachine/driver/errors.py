"""The errors that drivers raise: those of `pymachine.errors` that concern them."""

from pymachine.errors import (
    EXIT_PRECREATE,
    CommandError,
    DriverError,
    DriverNotFoundError,
    HostNotRunningError,
    PrecreateError,
    PymachineError,
    StaleTemplateError,
    TemplateError,
    TimeoutExpiredError,
    UnsupportedError,
    UsageError,
)

__all__ = [
    "EXIT_PRECREATE",
    "CommandError",
    "DriverError",
    "DriverNotFoundError",
    "HostNotRunningError",
    "PrecreateError",
    "PymachineError",
    "StaleTemplateError",
    "TemplateError",
    "TimeoutExpiredError",
    "UnsupportedError",
    "UsageError",
]
