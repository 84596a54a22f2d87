"""Help in docker-machine's layout, used when pymachine is called as docker-machine.

docker-machine's shell completions parse it. The one for bash reads the text after three blanks, up to the first
character that a flag cannot have. The one for zsh reads the lines that name the driver, so each flag must be on one
line, and the names of commands up to a tab.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

import click

from pymachine.cli.context import is_docker_machine


def wanted(ctx: click.Context) -> bool:
    """Return whether to use docker-machine's layout."""
    return is_docker_machine(ctx.find_root().info_name or "")


def of_command(command: click.Command, ctx: click.Context) -> str:
    """Return the help of one command."""
    return "\n".join([*_head(command, ctx), "Options:", "   ", *_options(command, ctx, indent="   ")])


def of_program(group: click.Group, ctx: click.Context, *, version: str, commands: Mapping[str, str]) -> str:
    """Return the help of the program. `commands` maps names to summaries."""
    listed = _columns(((name, commands[name]) for name in group.list_commands(ctx)), indent="  ")
    options = _options(group, ctx, indent="  ")
    version_lines = [f"Version: {version}", ""]
    last = f"Run '{ctx.command_path} COMMAND --help' for more information on a command."
    return "\n".join([*_head(group, ctx), *version_lines, "Options:", *options, "", "Commands:", *listed, "", last])


def _head(command: click.Command, ctx: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(ctx))
    return [f"Usage: {ctx.command_path} {usage}", "", inspect.cleandoc(command.help or ""), ""]


def _options(command: click.Command, ctx: click.Context, *, indent: str) -> list[str]:
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]
    return _columns(((_names(option), _text(option)) for option in options), indent=indent)


def _names(option: click.Option) -> str:
    """Return the long name, the short name and the default."""
    names = sorted(option.opts, key=len, reverse=True)
    shown = ", ".join(names)
    if option.multiple:
        return f"{shown} [{names[0]} option {names[0]} option]"
    default = getattr(option, "default_value", None)
    return shown if option.is_flag or default in (None, "") else f'{shown} "{default}"'


def _text(option: click.Option) -> str:
    env = getattr(option, "env", None)
    return (option.help or "") + (f" [${env}]" if env else "")


def _columns(rows: Iterable[tuple[str, str]], *, indent: str) -> list[str]:
    """Align rows of a name and a text with tabs."""
    found = list(rows)
    width = max((len(name) for name, _ in found), default=0) // 8 + 1
    return [f"{indent}{name}{(width - len(name) // 8) * chr(9)}{text}" for name, text in found]
