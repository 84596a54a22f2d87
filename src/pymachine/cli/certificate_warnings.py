"""Warnings about certificates that expire soon."""

from __future__ import annotations

import os
import time

from pymachine.cli.context import App
from pymachine.errors import PymachineError
from pymachine.store.record import Machine
from pymachine.system.limits import RENEW_CERTIFICATES_SECONDS


def warning(app: App, machine: Machine, *, read_files: bool = False) -> str:
    """Return a warning if the machine's certificates expire within 30 days, else an empty text.

    Records that docker-machine wrote have no expiry date. With `read_files`, read it from the certificates then.
    """
    end = machine.certificates_expire
    if end is None and read_files:
        end = _expiry_from_files(app, machine)
    left = RENEW_CERTIFICATES_SECONDS if end is None else end - time.time()
    if left >= RENEW_CERTIFICATES_SECONDS:
        return ""
    program = os.path.basename(app.program)  # noqa: PTH119 (a word, not a file)
    days = int(left // 86400)
    when = f"expire in {days} days" if left >= 0 else "have expired"
    return f"the certificates of {machine.name} {when}: {program} regenerate-certs {machine.name}"


def _expiry_from_files(app: App, machine: Machine) -> int | None:
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

    try:
        return int(certs.first_expiry(app.store.machine_dir(machine.name)).timestamp())
    except PymachineError:  # no certificates: the machine does not use TLS, or was never set up
        return None
