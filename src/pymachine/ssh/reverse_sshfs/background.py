"""Start a machine's keeper in the background, find it again, and end it: see `pymachine.ssh.background`."""

from __future__ import annotations

from pymachine.errors import PymachineError
from pymachine.ssh.background import BackgroundProcess
from pymachine.store import paths


class KeeperError(PymachineError):
    """The process that keeps the shared folders mounted cannot be started or ended."""

    code = "share-keeper"


KEEPER = BackgroundProcess(
    lock=paths.SHARES_LOCK, log=paths.SHARES_LOG, task="keeps the shared folders mounted", error=KeeperError
)
start = KEEPER.start
find = KEEPER.find
end = KEEPER.end
retry = KEEPER.retry
