"""The click group: its commands and the global options. Listing the commands imports none of them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import click

from pymachine.cli import goflags
from pymachine.cli.commands import COMMANDS
from pymachine.cli.context import App, is_docker_machine
from pymachine.cli.errors import RunError, UnknownCommandError
from pymachine.cli.output import echo

# Commands whose module has another name (apart from dashes).
MODULES = {"context": "docker_context", "import": "import_", "h": "help"}
# Not listed by `help`: docker-machine's short name for `help`, and a command that only its forks have.
HIDDEN = frozenset({"h", "update-labels"})
# The version of docker-machine that pymachine is compatible with. Scripts compare it and put it into URLs.
DOCKER_MACHINE_VERSION = "0.16.2, build bd45ab13"
CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
AUTHORITY_OPTIONS = {
    "ca_cert": ("--tls-ca-cert", "MACHINE_TLS_CA_CERT", "CA to verify remotes against"),
    "ca_key": ("--tls-ca-key", "MACHINE_TLS_CA_KEY", "Private key to generate certificates"),
    "client_cert": ("--tls-client-cert", "MACHINE_TLS_CLIENT_CERT", "Client cert to use for TLS"),
    "client_key": ("--tls-client-key", "MACHINE_TLS_CLIENT_KEY", "Private key used in client TLS auth"),
}


def module_of(name: str) -> str:
    """Return the module of the command called `name`."""
    return f"pymachine.cli.{MODULES.get(name, name.replace('-', '_'))}"


class LazyGroup(click.Group):
    """A group that imports only the command that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all listed commands, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command called `cmd_name`.

        Raises `UnknownCommandError`, or returns None while completing.
        """
        if cmd_name in COMMANDS or cmd_name in HIDDEN:
            module = importlib.import_module(module_of(cmd_name))
            command: click.Command = module.command
            return command
        if ctx.resilient_parsing:
            return None
        program = os.path.basename(ctx.command_path)  # noqa: PTH119 (a word, not a file)
        raise UnknownCommandError(
            f"{program}: '{cmd_name}' is not a {program} command. See '{ctx.command_path} --help'."
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the global options by Go's rules, and leave the rest to the command."""
        values, rest = goflags.parse(self, ctx, args, interspersed=False)
        super().parse_args(ctx, ["--", *rest] if rest else [])
        ctx.params.update(values)
        goflags.allow_option_completion(ctx)
        return ctx.args

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, in docker-machine's layout if called as docker-machine."""
        from pymachine.cli import docker_machine_help  # noqa: PLC0415 (only help needs it)

        if not docker_machine_help.wanted(ctx):
            return super().get_help(ctx)
        from pymachine import __version__  # noqa: PLC0415

        version = f"{DOCKER_MACHINE_VERSION}, by pymachine {__version__}"
        return docker_machine_help.of_program(self, ctx, version=version, commands=COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names and summaries without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings=CONTEXT_SETTINGS, invoke_without_command=True)
@goflags.flag("--debug", "-D", is_flag=True, help="Enable debug mode  [$MACHINE_DEBUG]")
@goflags.flag("--storage-path", "-s", env="MACHINE_STORAGE_PATH", help="Configures storage path")
@goflags.flag("--github-api-token", env="MACHINE_GITHUB_API_TOKEN", help="Accepted for compatibility, without effect")
@goflags.flag("--native-ssh", is_flag=True, env="MACHINE_NATIVE_SSH", help="Use the native (Python) SSH implementation")
@goflags.flag("--bugsnag-api-token", env="MACHINE_BUGSNAG_API_TOKEN", help="Accepted for compatibility, without effect")
@goflags.flag("--version", "-v", is_flag=True, help="Print the version")
@click.pass_context
def group(
    ctx: click.Context,
    /,
    *,
    debug: bool,
    storage_path: str,
    native_ssh: bool,
    version: bool,
    **others: str,
) -> None:
    """Create and manage machines running Docker."""
    given = ctx.obj if isinstance(ctx.obj, dict) else {}
    ctx.obj = App(
        argv=given.get("argv") or [ctx.info_name or "pymachine"],
        debug=debug or bool(given.get("debug")),
        storage_path=storage_path,
        authority={key: Path(path).absolute() for key in AUTHORITY_OPTIONS if (path := others[f"tls_{key}"])},
        native_ssh=native_ssh,
    )
    if version:
        ctx.obj.say(version_line(ctx.command_path))
        ctx.exit()
    if ctx.invoked_subcommand is None:
        echo(ctx.get_help())


for _key, (_name, _env, _help) in AUTHORITY_OPTIONS.items():
    group.params.append(goflags.Flag([_name], env=_env, help=_help))


def version_line(program: str) -> str:
    """Return the client's version in docker-machine's form.

    Called as docker-machine, report docker-machine's version.
    """
    name = os.path.basename(program)  # noqa: PTH119 (a word, not a file)
    if is_docker_machine(program):
        return f"{name} version {DOCKER_MACHINE_VERSION}"
    import platform  # noqa: PLC0415

    from pymachine import __version__  # noqa: PLC0415

    return f"{name} version {__version__}, build python-{platform.python_version()}"


def debug_from_environment() -> bool:
    """Return the value of MACHINE_DEBUG. Raises `RunError` if it is not a boolean."""
    text = os.environ.get("MACHINE_DEBUG", "")
    if not text or text in goflags.TRUE | goflags.FALSE:
        return text in goflags.TRUE
    raise RunError(
        f'Error parsing boolean value from MACHINE_DEBUG: strconv.ParseBool: parsing "{text}": invalid syntax'
    )
