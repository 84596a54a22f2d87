"""`snapshot`: create, list, restore and remove snapshots of machines."""

from __future__ import annotations

import time

import click

from pymachine.cli.context import App, json_option, pass_app
from pymachine.cli.machine_args import complete
from pymachine.cli.tables import table
from pymachine.driver.contract import Json
from pymachine.hosts import snapshot_operations, snapshots
from pymachine.system.progress import human

MACHINE = click.argument("machine", metavar="MACHINE", shell_complete=complete)


@click.group(name="snapshot", short_help="Create, list, restore and remove snapshots of a machine")
def command() -> None:
    """Create, list, restore and remove snapshots of a machine.

    A snapshot of a running machine includes its memory.
    """


@command.command(name="create")
@MACHINE
@click.argument("name", metavar="[SNAPSHOT]", required=False)
@click.option("--disk-only", is_flag=True, help="Leave out the memory of a running machine")
@json_option
@pass_app
def create(app: App, *, machine: str, name: str | None, disk_only: bool) -> None:
    """Create a snapshot of MACHINE, which keeps running. The default name is the current time."""
    name = name or snapshots.default_name()
    made = snapshot_operations.save_snapshot(app.hosts, machine, name, disk_only=disk_only)
    app.show(made.name, _summary(made))


@command.command(name="ls")
@MACHINE
@json_option
@pass_app
def list_(app: App, *, machine: str) -> None:
    """List the snapshots of MACHINE, oldest first."""
    app.store.load(machine)
    found = snapshots.find_all(app.store.machine_dir(machine))
    rows = [("NAME", "MEMORY", "SIZE", "MADE")]
    rows += [
        (
            snapshot.name,
            "yes" if snapshot.has_memory else "no",
            human(snapshot.size, "B"),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.made)),
        )
        for snapshot in found
    ]
    app.show(table(rows), [_summary(snapshot) for snapshot in found])


@command.command(name="restore")
@MACHINE
@click.argument("name", metavar="SNAPSHOT")
@click.option("--disk-only", is_flag=True, help="Restore only the disk, and leave the machine stopped")
@json_option
@pass_app
def restore(app: App, *, machine: str, name: str, disk_only: bool) -> None:
    """Restore MACHINE to SNAPSHOT. Its current state is lost.

    The machine runs afterwards if it was running when the snapshot was created.
    """
    state = snapshot_operations.restore_snapshot(app.hosts, machine, name, disk_only=disk_only)
    app.show(
        f'Machine "{machine}" is as in "{name}"; it is {state.word.lower()}.', {"Name": machine, "State": state.word}
    )


@command.command(name="rm")
@MACHINE
@click.argument("names", metavar="SNAPSHOT...", nargs=-1, required=True)
@json_option
@pass_app
def remove(app: App, *, machine: str, names: tuple[str, ...]) -> None:
    """Remove snapshots of MACHINE."""
    for name in names:
        snapshot_operations.remove_snapshot(app.hosts, machine, name)
    app.show("\n".join(f"Removed {name}" for name in names), [{"Name": name, "Removed": True} for name in names])


def _summary(snapshot: snapshots.Snapshot) -> dict[str, Json]:
    return {
        "Name": snapshot.name,
        "Memory": snapshot.has_memory,
        "SizeBytes": snapshot.size,
        "Made": int(snapshot.made),
    }
