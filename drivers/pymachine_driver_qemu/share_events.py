"""The process that raises events in the guest for changes that this host makes in shared folders.

Each machine that shares folders has one, which starts with the first container that mounts one, and ends with QEMU:
``python -m pymachine_driver_qemu.share_events MACHINE_FOLDER``. Its standard input is the connection to the guest's
port `identity_channel.SHARES_PORT`. Its log is ``share-events.log`` in the machine's folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path, PurePosixPath

from pymachine.driver.kit.port_forwarding import log
from pymachine.driver.kit.share_events.follower import Follower
from pymachine.driver.kit.system import open_files
from pymachine.driver.shares import Share
from pymachine_driver_qemu import background

# More than `host_changes.MOST_FOLDERS`, and the most that macOS allows.
_OPEN_FILES = 10_240


def main(arguments: list[str]) -> int:
    """Run the program, whose argument is the machine's folder."""
    folder = Path(arguments[0])
    try:
        settings = json.loads((folder / background.SHARES.settings).read_text(encoding="utf-8"))
        shares = [Share(path=Path(path), guest_path=PurePosixPath(guest)) for path, guest in settings["shares"]]
        left_out = frozenset(map(str, settings["left_out"]))
    except FileNotFoundError:
        return 0  # the machine is being removed
    except (OSError, ValueError, KeyError, TypeError) as error:
        log(f"ended by an error: {error!r}")
        return 1
    # Each folder is opened for a moment before it is watched, and a usual limit is 1024.
    open_files.raise_limit(_OPEN_FILES)
    guest = sys.stdin.fileno()
    Follower(shares, left_out=left_out, incoming=guest, outgoing=guest, say=log).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
