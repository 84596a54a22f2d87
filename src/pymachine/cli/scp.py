"""`scp`: copy files between machines, or between a machine and this host."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError, RunError
from pymachine.ssh import openssh, plain_paths, scp
from pymachine.ssh.target import Target
from pymachine.system import files, run


@click.command("scp", cls=goflags.GoCommand, structured=False)
@goflags.flag("--recursive", "-r", is_flag=True, help="Copy files recursively (required to copy directories)")
@goflags.flag(
    "--delta", "-d", is_flag=True, help="Reduce amount of data sent over network by sending only the differences"
)
@goflags.flag(
    "--quiet", "-q", is_flag=True, help="Disables the progress meter as well as warning and diagnostic messages"
)
@goflags.arguments("words", "[[user@]machine:][path] [[user@]machine:][path]", complete=machine_args.complete_path)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], *, recursive: bool, delta: bool, quiet: bool) -> None:
    """Copy files between machines."""
    if len(words) != 2:
        raise HelpfulUsageError("Improper number of arguments", usage=ctx.get_help())
    app = current(ctx)

    def target_of(name: str, user: str | None) -> Target:
        machine_args.load_for_transfer(app, name)
        return app.hosts.open(name).login(user=user)

    places = [scp.parse(word, target_of) for word in words]
    targets = [place.target for place in places if place.target is not None]
    for target in targets:
        target.check()
    program = "rsync" if delta else "scp"
    if run.which(program) is None:
        feature = "--delta option" if delta else "scp feature"
        raise RunError(f"You must have a copy of the {program} binary locally to use the {feature}")
    if delta:
        ctx.exit(machine_args.exit_status(_delta(places, recursive=recursive, quiet=quiet)))
    with plain_paths.plain_all(targets) as plain, plain_paths.folder() as folder:
        config = folder / "config"
        files.atomic_write(config, scp.config(plain))
        argv = scp.scp(program, places, config_file=str(config), recursive=recursive, quiet=quiet)
        ctx.exit(machine_args.exit_status(run.foreground(argv)))


def _delta(places: list[scp.Location], *, recursive: bool, quiet: bool) -> int:
    """Copy the differences with rsync. Between two machines, copy through this host."""

    def copy(*route: scp.Location) -> int:
        remote = [place.target for place in route if place.target is not None]
        with plain_paths.plain_all(remote) as plain:
            shell = openssh.rsync_shell(plain[0]) if plain else ""
            return run.foreground(scp.rsync("rsync", route, shell=shell, recursive=recursive, quiet=quiet))

    source, target = places
    if source.target is None or target.target is None:
        return copy(source, target)
    with tempfile.TemporaryDirectory(prefix="pymachine-scp-") as folder:
        code = copy(source, scp.Location(f"{folder}/"))
        return code or copy(*scp.relay(source, Path(folder)), target)
