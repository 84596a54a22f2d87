"""The process that keeps a machine's local socket connected; see `pymachine.hosts.socket_keeper`."""

from __future__ import annotations

from pymachine.errors import PymachineError
from pymachine.ssh.background import BackgroundProcess
from pymachine.store import paths


class LocalSocketError(PymachineError):
    """A machine's engine cannot be reached through a local socket."""

    code = "local-socket"


KEEPER = BackgroundProcess(
    lock=paths.SOCKET_LOCK, log=paths.SOCKET_LOG, task="connects the local socket", error=LocalSocketError
)
