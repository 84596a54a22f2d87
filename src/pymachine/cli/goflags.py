"""Command lines in the style of Go's flag package, as docker-machine read them.

``-x`` and ``--x`` are the same, for short and long names, and so are ``--n v`` and ``--n=v``. Booleans are ``--b`` or
``--b=false``. Short flags cannot be combined. Flags may follow positionals, and ``--`` ends them. click declares
options, prints help and completes. This module parses the words and the environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from pymachine.cli.errors import FlagError
from pymachine.cli.output import echo
from pymachine.errors import UsageError
from pymachine.system import sizes

TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
STRUCTURED = "structured"
_INTEGER_BITS = 64
FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


@dataclass(frozen=True)
class Preset:
    """The value of a flag in a file. The command line and the environment override it."""

    value: str | int | bool | Sequence[str]
    source: str
    """The key and the file, for messages."""


def presets(ctx: click.Context) -> dict[str, Preset]:
    """Return the values of a command's flags in a file, by parameter name. A command fills it before it is parsed."""
    found: dict[str, Preset] = ctx.meta.setdefault(f"{__name__}.presets", {})
    return found


class _Size(click.types.IntParamType):
    """The type of sizes in MB, which `parse` also accepts with a unit."""

    name = "size"


SIZE = _Size()


class Flag(click.Option):
    """An option with docker-machine's rules for its environment variable `env`.

    click never reads the variable, since its rules (splitting on blanks, errors for bad booleans) differ.
    """

    def __init__(self, *args: Any, env: str | None = None, default_text: str = "", **kwargs: Any) -> None:
        """With `default_text`, the help shows it instead of the default, which depends on the host."""
        super().__init__(*args, **kwargs)
        self.env = env
        self.default_text = default_text

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return click's record, with the variable and the default as docker-machine's help shows them."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        names, text = record
        shown = self.default_text or self.default_value
        if shown not in (None, "", False, ()):
            text += f"  [default: {', '.join(shown) if isinstance(shown, tuple) else shown}]"
        return names, text + (f"  [${self.env}]" if self.env else "")

    @property
    def default_value(self) -> Any:
        """The value if neither the command line nor the environment has one."""
        default = self.default() if callable(self.default) else self.default
        if self.multiple:
            return tuple(default) if isinstance(default, list | tuple) else ()
        if self.is_flag:
            return default is True
        if isinstance(default, str | int):
            return default
        return None if self.type in (click.INT, SIZE) else ""

    @property
    def flag_names(self) -> list[str]:
        """All names of the flag, without dashes."""
        return [name.lstrip("-") for name in self.opts]


def flag(*names: str, env: str | None = None, **kwargs: Any) -> Callable[[Any], Any]:
    """Decorate a command's function with a `Flag`."""
    return click.option(*names, cls=Flag, env=env, **kwargs)


def arguments(
    dest: str = "names", metavar: str = "[arg...]", *, complete: Callable[..., Any] | None = None
) -> Callable[[Any], Any]:
    """Decorate a command's function with all its positionals, as one tuple. The command checks their number."""
    return click.argument(dest, nargs=-1, metavar=metavar, shell_complete=complete)


def one_of(words: Callable[[], Iterable[str]]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a completion function for a value that is one of `words`."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
        return [word for word in words() if word.startswith(incomplete)]

    return complete


class GoCommand(click.Command):
    """A command whose arguments this module parses. It has the flag ``--json`` unless `structured` is false."""

    interspersed = True
    """Whether flags may follow positionals."""

    def __init__(self, *args: Any, structured: bool = True, evaluated: bool = False, **kwargs: Any) -> None:
        """With `evaluated`, shells evaluate the command's stdout, so errors must not print the help there."""
        super().__init__(*args, **kwargs)
        self.evaluated = evaluated
        if structured:
            self.params.append(Flag(["--json", STRUCTURED], is_flag=True, help="Print JSON"))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Fill ``ctx.params``, or print the help and exit. Raises `FlagError`."""
        values, positionals = parse(self, ctx, args, interspersed=self.interspersed)
        if values.pop(STRUCTURED, False):
            ctx.find_root().obj.print_json()
        ctx.params.update(values)
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument) and param.name:
                ctx.params[param.name] = tuple(positionals)
                positionals = []
        if positionals and not ctx.resilient_parsing:
            raise bad_arguments(ctx, "Error: Too many arguments given")
        allow_option_completion(ctx)
        ctx.args = []
        return []

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, in docker-machine's layout if called as docker-machine."""
        from pymachine.cli import docker_machine_help  # noqa: PLC0415 (only help needs it)

        return docker_machine_help.of_command(self, ctx) if docker_machine_help.wanted(ctx) else super().get_help(ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write ``Usage: NAME COMMAND [OPTIONS] [arg...]``."""
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.command_path, pieces)


def bad_arguments(ctx: click.Context, text: str) -> UsageError:
    """Return the error for wrong arguments, without the command's help, which a shell might evaluate."""
    return UsageError(text, hint=_see_help(ctx))


def _see_help(ctx: click.Context) -> str:
    return f"See: {ctx.command_path} --help"


def allow_option_completion(ctx: click.Context) -> None:
    """Register the dashes as option prefixes for click's completion. click's own parser, unused here, would do it."""
    prefixes = getattr(ctx, "_opt_prefixes", None)
    if prefixes is not None:
        prefixes.update(("-", "--"))


def parse(
    command: click.Command, ctx: click.Context, words: Sequence[str], *, interspersed: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of all of `command`'s flags by parameter name, and the positionals.

    Without `interspersed` the first positional ends the flags. ``--help`` prints the help and exits.
    """
    flags = [param for param in command.get_params(ctx) if isinstance(param, Flag)]
    try:
        given, positionals = scan(flags, words, interspersed=interspersed)
        preset = presets(ctx)
        values = {item.name or "": _value(item, given, preset.get(item.name or "")) for item in flags}
        for item in flags:
            ctx.set_parameter_source(item.name or "", _source(item, given, preset))
    except FlagError as error:
        if not ctx.resilient_parsing:
            if isinstance(command, GoCommand) and command.evaluated:
                error.hint = _see_help(ctx)
            else:
                error.usage = ctx.get_help()
            raise
        return {item.name or "": item.default_value for item in flags}, []
    except HelpRequest:
        if ctx.resilient_parsing:
            return {item.name or "": item.default_value for item in flags}, []
        echo(ctx.get_help())
        ctx.exit()
    return values, positionals


class HelpRequest(Exception):  # noqa: N818 (not an error)
    """``-h`` or ``--help`` was among the flags."""


def scan(
    flags: Iterable[Flag], words: Sequence[str], *, interspersed: bool = True
) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the values given on the command line by parameter name, in order, and the positionals."""
    by_name = {name: item for item in flags for name in item.flag_names}
    given: dict[str, list[Any]] = {}
    positionals: list[str] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            positionals.append(word)
            if interspersed:
                continue
            break
        name, equals, value = _split(word)
        item = by_name.get(name)
        if item is None:
            if name in ("h", "help"):
                raise HelpRequest
            raise FlagError(f"flag provided but not defined: -{name}")
        if not equals and item.is_flag:
            value = "true"
        elif not equals:
            if not rest:
                raise FlagError(f"flag needs an argument: -{name}")
            value = rest.pop()
        given.setdefault(item.name or "", []).append(_convert(item, name, value))
    return given, positionals + rest[::-1]


def _split(word: str) -> tuple[str, str, str]:
    name, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
    if not name or name.startswith("-"):
        raise FlagError(f"bad flag syntax: {word}")
    return name, equals, value


def _convert(item: Flag, name: str, value: str) -> Any:
    """Convert `value` to the flag's type. Raises `FlagError` with Go's message."""
    if item.is_flag:
        if value in TRUE or value in FALSE:
            return value in TRUE
        raise FlagError(f'invalid boolean value "{value}" for -{name}: parse error')
    if item.type is click.INT:
        return _integer(name, value)
    if item.type is SIZE:
        return _size(name, value)
    return value


def _size(name: str, value: str) -> int:
    """Parse a size with a unit, or a number as `_integer` does."""
    size = sizes.with_unit(value)
    if size is not None:
        return size
    try:
        return _integer(name, value)
    except FlagError as error:
        error.hint = sizes.HINT
        raise


def _integer(name: str, value: str) -> int:
    """Parse `value` as Go 1.12's ``strconv.ParseInt(value, 0, 64)``: decimal, ``0x`` hexadecimal, ``0`` octal.

    Python's `int` would also accept blanks, underscores, ``0b`` and digits of other scripts, but not ``010``.
    """
    found = re.fullmatch(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9][0-9]*))", value)
    if found is None:
        raise FlagError(f'invalid value "{value}" for flag -{name}: parse error')
    sign, hexadecimal, octal, decimal = found.groups()
    digits, base = (hexadecimal, 16) if hexadecimal else (octal, 8) if octal else (decimal, 10)
    # Python refuses to convert very long texts. A number with more than 64 digits is out of range anyway.
    number = int(sign + digits, base) if len(digits.lstrip("0")) <= _INTEGER_BITS else None
    if number is None or not -(2 ** (_INTEGER_BITS - 1)) <= number < 2 ** (_INTEGER_BITS - 1):
        raise FlagError(f'invalid value "{value}" for flag -{name}: value out of range')
    return number


def _source(item: Flag, given: Mapping[str, list[Any]], preset: Mapping[str, Preset]) -> ParameterSource:
    """Return where a flag's value comes from, for commands that treat a default and an equal value differently."""
    if given.get(item.name or ""):
        return ParameterSource.COMMANDLINE
    if item.env and os.environ.get(item.env):
        return ParameterSource.ENVIRONMENT
    return ParameterSource.DEFAULT_MAP if item.name in preset else ParameterSource.DEFAULT


def _value(item: Flag, given: Mapping[str, list[Any]], preset: Preset | None) -> Any:
    """Return a flag's value: from the command line, the environment, a file or the default, in this order."""
    values = given.get(item.name or "")
    if values:
        return tuple(values) if item.multiple else values[-1]
    text = os.environ.get(item.env, "") if item.env else ""
    if not text:
        return item.default_value if preset is None else _preset_value(item, preset)
    if item.multiple:
        return tuple(part.strip() for part in text.split(","))
    if item.is_flag:
        return text in TRUE  # a bad value is false, as in docker-machine
    try:
        return _convert(item, item.flag_names[0], text)
    except FlagError as error:
        raise FlagError(f"{error.brief} (from {item.env})", hint=error.hint) from error


def _preset_value(item: Flag, preset: Preset) -> Any:
    """Return a flag's value from a file, checked as on the command line."""
    if isinstance(preset.value, bool):
        return preset.value
    if not isinstance(preset.value, str | int):
        return tuple(preset.value)
    try:
        return _convert(item, item.flag_names[0], str(preset.value))
    except FlagError as error:
        raise UsageError(error.brief.replace(f"flag -{item.flag_names[0]}", preset.source), hint=error.hint) from error
