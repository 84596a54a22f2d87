"""Kernel parameters of guests that boot from kernel and RAM disk, and get their identity over a channel."""

from __future__ import annotations

from collections.abc import Sequence

# The kernel's name for the first serial port, by Debian's name for the architecture.
_CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}


NO_ASLR_HELP = (
    "Load programs at the same addresses each time; often faster in software emulation, but a protection less"
)
"""Describes the option of a driver that `emulated` is for."""
# Linux's name for "no address space layout randomization".
_NO_ASLR = "norandmaps"


def for_machine(architecture: str, of_image: str, *, extra: Sequence[str] = ()) -> str:
    """Return the parameters of a machine; `of_image` are those that the image needs."""
    own = [f"console={_CONSOLES[architecture]}", "quiet", "loglevel=3", "pymachine.identity=channel"]
    return " ".join([*own, *extra, *of_image.split()])


def emulated(*, no_aslr: bool) -> list[str]:
    """Return the further parameters of a machine in software emulation.

    QEMU before 8.0 translates a program again for each address that it is loaded at. With `no_aslr` there is only one,
    so containers and logins start a fifth to a third faster. With hardware virtualisation that would change nothing.
    """
    return [_NO_ASLR] if no_aslr else []


def for_trial(architecture: str, *, init: str, panic: int) -> str:
    """Return the parameters of a kernel that only runs `init` and then panics; `panic` is that of Linux, in seconds."""
    return f"console={_CONSOLES[architecture]} quiet panic={panic} rdinit={init} -- true"
