"""Ending a machine's run: by its power button, or at once."""

from __future__ import annotations

from pymachine.driver.contract import State
from pymachine.driver.errors import TimeoutExpiredError
from pymachine.driver.kit.system import Deadline, Reporter, until
from pymachine_driver_virtualbox import output
from pymachine_driver_virtualbox.errors import VirtualBoxError
from pymachine_driver_virtualbox.vboxmanage import VBoxManage

# A guest may miss the button while it boots.
PRESS_AGAIN_SECONDS = 15.0
OFF_SECONDS = 60.0


def down(vbox: VBoxManage, machine: str, *, timeout: float, front_end: str, reporter: Reporter) -> None:
    """Shut down in an orderly way, by force after `timeout` seconds. A saved machine wakes up for it."""
    state = output.state(vbox.info(machine))
    if state is State.STOPPED:
        return
    if state is State.SAVED:
        vbox("startvm", machine, "--type", front_end)
    elif state is State.PAUSED:
        vbox("controlvm", machine, "resume")
    if not _press(vbox, machine, Deadline(timeout)):
        reporter.warn(f"The guest did not shut down within {timeout:g} seconds: switching it off.")
        off(vbox, machine)
    _await_unlocked(vbox, machine)


def _press(vbox: VBoxManage, machine: str, deadline: Deadline) -> bool:
    """Press the power button until the machine is off; whether that came in time."""
    while True:
        try:
            vbox("controlvm", machine, "acpipowerbutton")
        except VirtualBoxError:
            # It went off by itself; or the guest, as long as it boots, does not take the button at all.
            if _is_off(vbox, machine):
                return True
        try:
            until(
                lambda: _is_off(vbox, machine),
                deadline=Deadline(deadline.remaining(at_most=PRESS_AGAIN_SECONDS)),
                what="power-off",
                interval=0.2,
            )
        except TimeoutExpiredError:
            if deadline.expired:
                return False
        else:
            return True


def off(vbox: VBoxManage, machine: str) -> None:
    """Switch off at once; a machine that is off stays so."""
    state = output.state(vbox.info(machine))
    if state is State.STOPPED:
        return
    if state is State.SAVED:
        vbox("discardstate", machine)
        return
    try:
        vbox("controlvm", machine, "poweroff")
    except VirtualBoxError:
        # It may have gone off by itself meanwhile.
        if not _is_off(vbox, machine):
            raise
    until(lambda: _is_off(vbox, machine), deadline=OFF_SECONDS, what="the machine to be off", interval=0.1)
    _await_unlocked(vbox, machine)


def _is_off(vbox: VBoxManage, machine: str) -> bool:
    return output.state(vbox.info(machine)) is State.STOPPED


def _await_unlocked(vbox: VBoxManage, machine: str) -> None:
    """Wait until VirtualBox's process for the machine has let go of it: it is off a moment before."""
    until(
        lambda: "SessionName" not in vbox.info(machine),
        deadline=OFF_SECONDS,
        what="VirtualBox to let go of the machine",
    )
