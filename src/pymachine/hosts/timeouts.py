"""How long operations on machines wait, in seconds."""

from __future__ import annotations

import os

from pymachine.errors import UsageError

ENV_BOOT_TIMEOUT = "PYMACHINE_BOOT_TIMEOUT"
BOOT_SECONDS = 300.0
STOP_SECONDS = 60.0
# A resumed machine answers within a second, unless something is wrong with its template.
RESUME_SECONDS = 60.0
PROVISIONED_SECONDS = 60.0
# Asking a driver for the state starts a program or opens a connection. While we wait for the engine, the driver is
# asked at most this often.
STATE_SECONDS = 2.0
# How long an engine has to answer when we do not know whether the machine's interrupted boot was complete.
ANSWER_SECONDS = 10.0


def boot_timeout() -> float:
    """Return the seconds that a guest has to come up: PYMACHINE_BOOT_TIMEOUT, or 300.

    Raises `UsageError` if the variable is not a number above 0.
    """
    text = os.environ.get(ENV_BOOT_TIMEOUT, "")
    if not text:
        return BOOT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{ENV_BOOT_TIMEOUT} is {text!r}, expected a number of seconds above 0")
    return seconds
