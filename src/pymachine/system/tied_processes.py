"""Child processes that end with their parent, however that ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def tie() -> Callable[[], None] | None:
    """Return the `preexec_fn` of a child that is killed when this thread ends, or None if this is not Linux.

    Call it in the thread that starts the child.
    """
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 (used only here)

    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    # The child must only make these calls, since other threads may have held locks when it was forked.
    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return prepare
