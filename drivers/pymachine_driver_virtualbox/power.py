"""Switch a machine off, by its power button or immediately."""

from __future__ import annotations

from pymachine.driver.contract import State
from pymachine.driver.errors import TimeoutExpiredError
from pymachine.driver.kit.system import Deadline, Reporter, until
from pymachine_driver_virtualbox import output
from pymachine_driver_virtualbox.errors import VirtualBoxError
from pymachine_driver_virtualbox.vboxmanage import VBoxManage

# A guest may miss the button press while it boots.
PRESS_AGAIN_SECONDS = 15.0
OFF_SECONDS = 60.0


def down(vbox: VBoxManage, machine: str, *, timeout: float, front_end: str, reporter: Reporter) -> None:
    """Shut the guest down, and switch the machine off after `timeout` seconds. A saved machine is resumed first."""
    state = output.state(vbox.info(machine))
    if state is State.STOPPED:
        return
    if state is State.SAVED:
        vbox("startvm", machine, "--type", front_end)
    elif state is State.PAUSED:
        vbox("controlvm", machine, "resume")
    if not _press(vbox, machine, Deadline(timeout)):
        reporter.warn(f"The guest did not shut down within {timeout:g} seconds. Switching the machine off.")
        off(vbox, machine)
    _await_unlocked(vbox, machine)


def _press(vbox: VBoxManage, machine: str, deadline: Deadline) -> bool:
    """Press the power button until the machine is off; return whether that happened before the deadline."""
    while True:
        try:
            vbox("controlvm", machine, "acpipowerbutton")
        except VirtualBoxError:
            # The machine went off meanwhile; or the guest is still booting and does not accept the button.
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
    """Switch the machine off immediately, unless it is off already."""
    state = output.state(vbox.info(machine))
    if state is State.STOPPED:
        return
    if state is State.SAVED:
        vbox("discardstate", machine)
        return
    try:
        vbox("controlvm", machine, "poweroff")
    except VirtualBoxError:
        # The machine may have gone off meanwhile.
        if not _is_off(vbox, machine):
            raise
    until(lambda: _is_off(vbox, machine), deadline=OFF_SECONDS, what="the machine to be off", interval=0.1)
    _await_unlocked(vbox, machine)


def _is_off(vbox: VBoxManage, machine: str) -> bool:
    return output.state(vbox.info(machine)) is State.STOPPED


def _await_unlocked(vbox: VBoxManage, machine: str) -> None:
    """Wait until VirtualBox's process has unlocked the machine, which happens a moment after it is off."""
    until(
        lambda: "SessionName" not in vbox.info(machine),
        deadline=OFF_SECONDS,
        what="VirtualBox to unlock the machine",
    )
