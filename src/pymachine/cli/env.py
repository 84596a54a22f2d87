"""`env`: print the shell commands that connect a docker client to a machine.

`pymachine.__main__` has a fast path for the usual case.
"""

from __future__ import annotations

import os
import sys

import click

from pymachine.cli import certificate_warnings, goflags, machine_args, shells
from pymachine.cli.context import App, current
from pymachine.cli.errors import RunError
from pymachine.docker.variables import CONNECTION_NAMES, TLS_NAMES, connection_variables, socket_variables
from pymachine.errors import PymachineError
from pymachine.hosts import connection

WINDOWS = sys.platform == "win32"
UNUSUAL_NAMES = (
    "WARNING: a docker client finds certificates only under the names ca.pem, cert.pem and key.pem in one folder"
)


@click.command("env", cls=goflags.GoCommand, evaluated=True)
@goflags.flag("--swarm", is_flag=True, help="Display the Swarm config instead of the Docker daemon")
@goflags.flag(
    "--shell",
    help="Force environment to be configured for a specified shell: [fish, cmd, powershell, tcsh]",
    shell_complete=goflags.one_of(lambda: ("bash", *shells.SHELLS)),
)
@goflags.flag("--unset", "-u", is_flag=True, help="Unset variables instead of setting them")
@goflags.flag("--no-proxy", is_flag=True, help="Add machine IP to NO_PROXY environment variable")
@goflags.flag("--socket", is_flag=True, help="Use the machine's local socket instead of TLS, and make it if necessary")
@machine_args.arguments("[name]")
@click.pass_context
def command(
    ctx: click.Context,
    names: tuple[str, ...],
    *,
    swarm: bool,
    shell: str,
    unset: bool,
    no_proxy: bool,
    socket: bool,
) -> None:
    """Display the commands to set up the environment for the Docker client."""
    app = current(ctx)
    app.messages_to_stderr()
    if unset:
        if names:
            raise RunError("Error: Expected no machine name when the -u flag is present")
        removed = [*CONNECTION_NAMES, *(shells.no_proxy_names(os.environ) if no_proxy else [])]
        text = "" if app.structured else shells.removals(_shell(app, shell), removed, app.argv)
        app.show(text.removesuffix("\n"), {"Unset": removed})
        return
    name = machine_args.one(ctx, names)
    if socket:
        if swarm:
            raise RunError("Error: --socket and --swarm exclude each other")
        _print_socket(app, name, shell)
        return
    try:
        endpoint = connection.check(app.hosts.open(name), swarm=swarm)
    except PymachineError as error:
        raise error.prefixed("Error checking TLS connection: ") from error
    folder = app.hosts.open(name).client_files().folder
    if folder is None:
        app.reporter.warn(f"{UNUSUAL_NAMES}: use `{app.program} config {name}`.")
        folder = app.store.machine_dir(name)
    variables = connection_variables(endpoint.url, str(folder), name, windows=WINDOWS)
    if no_proxy:
        variables += shells.no_proxy(os.environ, endpoint.address)
    text = "" if app.structured else shells.assignments(_shell(app, shell), variables, app.argv)
    app.show(text.removesuffix("\n"), {"Name": name, "Variables": dict(variables)})
    warning = certificate_warnings.warning(app, app.store.load(name), read_files=True)
    if warning:
        app.reporter.warn(f"WARNING: {warning}")


def _print_socket(app: App, name: str, shell: str) -> None:
    """Print the commands for the machine's local socket."""
    from pymachine.hosts import local_socket  # noqa: PLC0415 (few machines have one)

    path = local_socket.ensure(app.hosts, name)
    variables = socket_variables(str(path), name)
    if app.structured:
        app.show("", {"Name": name, "Variables": dict(variables), "Unset": list(TLS_NAMES)})
        return
    chosen = _shell(app, shell)
    lines = [chosen.clear.format(each) for each in TLS_NAMES]
    app.say("\n".join([*lines, shells.assignments(chosen, variables, app.argv)]).removesuffix("\n"))


def _shell(app: App, asked: str) -> shells.Shell:
    """Return the shell to write for. Raises `RunError` if it is neither given nor detected."""
    chosen = asked or shells.detect(os.environ, parent=shells.caller(), windows=WINDOWS)
    if not chosen:
        app.say(f"{shells.DETECTION_HELP}\n")
        raise RunError("Error: Unknown shell")
    return shells.find(chosen)
