"""`ssh-config`: Host entries with which OpenSSH, and programs that run it, reach machines by their names."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.driver.contract import Json
from pymachine.errors import HostNotRunningError, PymachineError, UnsupportedError
from pymachine.hosts import ssh_config


@click.command("ssh-config", cls=goflags.GoCommand)
@goflags.flag("--install", is_flag=True, help="Include the entries of all machines in ~/.ssh/config")
@goflags.flag("--uninstall", is_flag=True, help="Undo --install")
@machine_args.arguments("[NAME...]")
@pass_app
def command(app: App, names: tuple[str, ...], *, install: bool, uninstall: bool) -> None:
    """Print the Host entries of machines for OpenSSH's configuration file.

    Without names, print those of all machines, except for machines without SSH.

    With --install, `ssh NAME`, and programs that use it, such as rsync, VS Code and docker -H ssh://NAME, reach all
    machines. Commands such as create, rename and rm keep the entries up to date. A machine whose name is a host in
    ~/.ssh/config already is left out.
    """
    if install and uninstall:
        raise RunError("--install and --uninstall exclude each other", hint="Use one of them.")
    if (install or uninstall) and names:
        raise RunError(f"--{'install' if install else 'uninstall'} is for all machines: name none")
    if uninstall:
        _uninstall(app)
    elif install:
        _install(app)
    else:
        app.messages_to_stderr()
        _print(app, names)


def _print(app: App, names: tuple[str, ...]) -> None:
    from pymachine.ssh import host_entries  # noqa: PLC0415 (the help does not need it)

    texts, rows = [], []
    for name in app.names(names) if names else app.store.names():
        try:
            target = ssh_config.find_target(app.hosts.open(name))
            texts.append(host_entries.entry(target))
        except PymachineError as error:
            if names:
                raise
            if not isinstance(error, HostNotRunningError | UnsupportedError):
                app.reporter.warn(f'"{name}" has no entry: {error.brief}')
            continue
        options: dict[str, Json] = {key: str(value) for key, value in host_entries.options(target).items()}
        rows.append({"Name": name, "Host": target.host_alias, "Options": options})
    app.show("\n".join(texts).removesuffix("\n"), rows)


def _install(app: App) -> None:
    from pymachine.ssh import user_config  # noqa: PLC0415 (the help does not need it)

    config = user_config.path()
    if ssh_config.install(app.hosts):
        app.reporter.info(f"{config} includes the entries of all machines now: ssh NAME")
    else:
        app.reporter.info(f"{config} includes the entries of all machines already. They are up to date.")
    read = user_config.read_by_openssh()
    if read != config:
        app.reporter.warn(f"HOME is set to another folder than your account's: OpenSSH reads {read}, and not {config}.")
    if app.structured:
        _print(app, ())


def _uninstall(app: App) -> None:
    if ssh_config.uninstall(app.hosts):
        app.reporter.info("The entries of machines are not included in the SSH configuration any more.")
    else:
        app.reporter.info("The entries of machines were not included in the SSH configuration.")
    if app.structured:
        app.show("", [])
