"""The keeper: keeps the shared folders of one machine mounted over SSH, and raises events in them.

Each machine whose folders pymachine mounts over SSH, or in which it raises events over SSH, has one such process,
``python -m pymachine.hosts.share_keeper STORE NAME``. It is started when the machine is created or started, and ended
when that is stopped or removed. It takes changed shares over from the machine's record. It ends when that is gone, or
when it has nothing to do. Its log is ``shares.log`` in the machine's folder.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources

from pymachine.driver.kit.port_forwarding import log
from pymachine.driver.shares import Share, ShareEvents
from pymachine.errors import PymachineError
from pymachine.hosts import background_program
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.ssh_shares import ShareMountError
from pymachine.hosts.watched_record import WatchedRecord
from pymachine.ssh.reverse_sshfs.background import KEEPER
from pymachine.ssh.reverse_sshfs.keeper import Keeper
from pymachine.ssh.share_events import Events
from pymachine.system import open_files

_OPEN_FILES = 1 << 20


@dataclass(frozen=True)
class _Work:
    """The work of the keeper for its machine."""

    mounted: Sequence[Share]
    """The shares that it mounts."""
    with_events: Sequence[Share]
    """The shares in which it raises events."""
    events: ShareEvents | None


class _Plan:
    """The keeper's task, as the record says."""

    def __init__(self, record: WatchedRecord) -> None:
        self._record = record
        self._machine: Host | None = None
        self._work: _Work | None = None
        self._events: ShareEvents | None = None

    def work(self) -> _Work | None:
        """Return what there is to do now: None if the machine is gone, or if there is nothing to do for it.

        While that cannot be found out, it is the last result.
        """
        machine = self._record.machine()
        if machine is None:
            return None
        try:
            if machine is not self._machine:
                self._events = machine.share_events()
                self._machine = machine
            self._work = _Work(machine.shares_over_ssh(), machine.shares_with_events_over_ssh(), self._events)
        except (PymachineError, OSError) as error:
            self._record.report(error)
        return self._work if self._work and (self._work.mounted or self._work.with_events) else None


def _share_events_script() -> str:
    """Return the guest's script, which is a part of pymachine's image, too."""
    path = "rootfs/root/usr/lib/pymachine/share-events"
    return (resources("pymachine.image") / path).read_text(encoding="utf-8")


def keep(hosts: Hosts, name: str, wake: socket.socket) -> None:
    """Keep the folders of machine `name` mounted and followed, until `wake` ends that or there is nothing to do."""
    # While it begins to watch folders, it has all of them open.
    open_files.raise_limit(_OPEN_FILES)
    record = WatchedRecord(hosts, name, unpinned=ShareMountError)
    plan = _Plan(record)
    keeper = Keeper(hosts.store.machine_dir(name), target=record.target, say=log)
    with Events(target=record.target, script=_share_events_script(), say=log) as events:

        def mounted() -> Sequence[Share] | None:
            work = plan.work()
            if work is None:
                return None
            # A machine that has mounted no folder may not even be reachable.
            if keeper.has_mounted or not work.mounted or not work.with_events:
                over_sshfs, mounts = bool(work.mounted), keeper.mount_count
                events.follow(work.with_events, work.events, over_sshfs=over_sshfs, mounts=mounts)
            return work.mounted

        keeper.run(mounted, wake=wake, retry=events.retry)


if __name__ == "__main__":
    sys.exit(background_program.run(KEEPER, keep, sys.argv[1:], begin="keeping the shared folders"))
