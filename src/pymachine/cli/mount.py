"""`mount`: mount a directory of a machine on this host, with SSHFS."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, current
from pymachine.cli.errors import HelpfulUsageError, RunError
from pymachine.ssh import openssh, plain_paths, scp
from pymachine.system import run


@click.command("mount", cls=goflags.GoCommand, structured=False)
@goflags.flag("--unmount", "-u", is_flag=True, help="Unmount instead of mount")
@machine_args.arguments("[user@]machine:path [mountpoint]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, unmount: bool) -> None:
    """Mount or unmount a directory from a machine with SSHFS.

    The default mountpoint is the same path on this host. The default machine is "default".
    """
    if not 1 <= len(names) <= 2:
        raise HelpfulUsageError("Improper number of arguments", usage=ctx.get_help())
    app = current(ctx)
    user, name, path = _parse(names[0])
    point = names[1] if len(names) == 2 else path
    if unmount:
        ctx.exit(machine_args.exit_status(run.foreground(_unmount(app, name, point))))
    ctx.exit(machine_args.exit_status(_mount(app, name, user, path, point)))


def _parse(place: str) -> tuple[str, str, str]:
    """Split ``[user@]machine:path`` into user, machine and path."""
    head, colon, path = place.partition(":")
    if not colon:
        return "", "default", place
    user, _, name = head.rpartition("@")
    return user, name or "default", path


def _mount(app: App, name: str, user: str, path: str, point: str) -> int:
    program = run.which("sshfs")
    if program is None:
        raise RunError("You must have a copy of the sshfs binary locally to use the mount feature")
    machine_args.load_for_transfer(app, name)
    target = app.hosts.open(name).login(user=user or None)
    target.check()
    if not Path(point).is_dir():
        raise RunError(f"the mountpoint {point} is not a directory", hint=f"Create it: mkdir -p {shlex.quote(point)}")
    with plain_paths.plain(target) as plain:
        return run.foreground(openssh.sshfs(str(program), plain, path, scp.local_path(point)))


def _unmount(app: App, name: str, point: str) -> list[str]:
    machine_args.load_for_transfer(app, name)
    for words in (("fusermount", "-u"), ("fusermount3", "-u"), *((("umount",),) if sys.platform == "darwin" else ())):
        program = run.which(words[0])
        if program is not None:
            return [str(program), *words[1:], scp.local_path(point)]
    raise RunError("You must have a copy of the fusermount binary locally to use the unmount option")
