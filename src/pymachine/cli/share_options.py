"""The options for shared folders, and the folders that are shared by default."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from pymachine.cli import goflags, project_file
from pymachine.cli.output import echo
from pymachine.store import paths
from pymachine.system import printable

if TYPE_CHECKING:
    from pymachine.cli.context import App
    from pymachine.driver.shares import Share
    from pymachine.hosts.shares import ShareRequest
    from pymachine.store.origins import Origin

SHARES = "shares"
VARIABLE = "PYMACHINE_SHARE"
NO_VARIABLE = "PYMACHINE_NO_SHARE"
NO_EVENTS_VARIABLE = "PYMACHINE_NO_SHARE_EVENTS"
# Values of CI that mean that this is no CI job.
_NOT_CI = ("", "0", "false")


def complete_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Leave the completion of folders to the shell."""
    return [CompletionItem(incomplete, type="dir")]


def flags(*, share: str, no_share: str, variables: bool = False) -> Callable[[Any], Any]:
    """Decorate a command's function with ``--share`` and ``--no-share``, with these help texts.

    With `variables`, environment variables change the default.
    """

    def decorate(function: Any) -> Any:
        function = goflags.flag("--no-share", is_flag=True, env=NO_VARIABLE if variables else None, help=no_share)(
            function
        )
        return goflags.flag(
            "--share", multiple=True, env=VARIABLE if variables else None, help=share, shell_complete=complete_folder
        )(function)

    return decorate


def for_new_machines(function: Any) -> Any:
    """Decorate the function of a command that makes machines with all options for shared folders."""
    function = goflags.flag(
        "--no-share-events",
        is_flag=True,
        env=NO_EVENTS_VARIABLE,
        help="Do not tell programs in the machine that this host has changed a shared file",
    )(function)
    return flags(
        share="Share a folder of this host, as PATH[:GUEST_PATH][:ro], instead of the default one",
        no_share="Share no folder of this host",
        variables=True,
    )(function)


def request(ctx: click.Context, store: Path, *, command: str) -> tuple[ShareRequest, Origin]:
    """Return the folders that a new machine shares, and where they come from.

    They are those of the command line, else of the environment variables, else of the project file, else of config.toml
    in `store`. Else it is the folder of the project file. Without one it is the home folder for ``create``, and the
    current folder for ``run`` and in CI, unless the home folder is in it.

    Raises `ShareError`, and `ConfigError` for a wrong config.toml.
    """
    from pymachine.store.origins import FLAG, Origin  # noqa: PLC0415 (the help does not need it)

    asked = from_command_line(ctx)
    if asked is not None:
        return asked, Origin(FLAG, "--share" if asked.shares else "--no-share")
    return _default(ctx, store, command=command)


def from_command_line(ctx: click.Context) -> ShareRequest | None:
    """Return the folders that the command line names, or None if it has neither option. Raises `ShareError`."""
    from pymachine.hosts.shares import ShareError, ShareRequest  # noqa: PLC0415 (the help does not need it)

    given, no_share = _is_given(ctx, "share"), _is_given(ctx, "no_share") and ctx.params["no_share"]
    if given and no_share:
        raise ShareError("--share and --no-share exclude each other", hint="Use one of them.")
    if no_share:
        return ShareRequest()
    return ShareRequest(shares=tuple(map(parsed, ctx.params["share"]))) if given else None


def parsed(text: str) -> Share:
    """Parse the text of ``--share``. A relative path is relative to the current folder. Raises `ShareError`."""
    from pymachine.hosts.shares import ShareError, parse  # noqa: PLC0415 (the help does not need it)

    folder = current_folder()
    try:
        return parse(text, base=folder)
    except ShareError as error:
        if folder is None and not error.hint:
            error.hint = "A relative path cannot be used, since the current folder was removed."
        raise


def _is_given(ctx: click.Context, name: str) -> bool:
    """Return whether an option is on the command line."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _default(ctx: click.Context, store: Path, *, command: str) -> tuple[ShareRequest, Origin]:
    """Return the default of `command`. A mistake in the user's own default is an error that names its source."""
    from pymachine.hosts.shares import ShareRequest, parse  # noqa: PLC0415 (the help does not need it)
    from pymachine.store import origins  # noqa: PLC0415

    # Not as docker-machine reads booleans: with `yes` the user wants to share nothing.
    if os.environ.get(NO_VARIABLE, "") not in ("", *goflags.FALSE) and not _is_given(ctx, "no_share"):
        return ShareRequest(), origins.Origin(origins.VARIABLE, NO_VARIABLE)
    if os.environ.get(VARIABLE):
        texts = [text.strip() for text in os.environ[VARIABLE].split(",")]
        return _own_default(f"${VARIABLE}", texts, parsed), origins.Origin(origins.VARIABLE, VARIABLE)
    file = project_file.of(ctx)
    if file is not None and SHARES in file.machine:
        place, folder = file.place(SHARES), file.folder
        shares = _own_default(place, file.texts(SHARES), lambda text: parse(text, base=folder))
        return replace(shares, is_default=False), origins.Origin(origins.FILE, place)
    configured = _configured(store).get(command)
    if configured is not None:
        path = store / paths.USER_CONFIG
        shares = _own_default(str(path), configured, lambda text: parse(text, base=None))
        return shares, origins.Origin(origins.CONFIG, f"[shares] {command} in {path}")
    return _usual(file, command), origins.Origin(origins.DEFAULT)


def _usual(file: project_file.ProjectFile | None, command: str) -> ShareRequest:
    if file is not None:
        return _unless_with_home(file.folder, name=f"the folder of {file.path}")
    return _home() if command == "create" and not in_ci() else _current()


def ask(app: App, ctx: click.Context) -> ShareRequest | None:
    """Ask on the terminal whether to share the default of ``create`` with an imported machine.

    Returns None if there is no terminal to ask on, or if there is no folder to share. The end of the input means no.
    """
    from pymachine.driver.shares import problem  # noqa: PLC0415 (the help does not need it)
    from pymachine.hosts.shares import ShareRequest, listed  # noqa: PLC0415

    out = sys.stderr if app.structured else sys.stdout
    if in_ci() or not (sys.stdin.isatty() and out.isatty()):
        return None
    default, _ = _default(ctx, app.store_root, command="create")
    shares = [share for share in default.shares if not problem(share)]
    if not shares:
        return None
    question = f"Share {listed(shares)} with this machine? Its programs can then read and change the files there."
    while True:
        echo(f"{printable.line(question)} (y/N): ", nl=False, err=app.structured)
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            echo(err=app.structured)
        word = answer.strip().lower()
        if word in {"y", "yes"}:
            return default
        if not answer.endswith("\n") or word in {"", "n", "no"}:
            return ShareRequest()


def _own_default(source: str, texts: Sequence[str], parse: Callable[[str], Share]) -> ShareRequest:
    from pymachine.hosts.shares import ShareError, ShareRequest  # noqa: PLC0415 (the help does not need it)

    try:
        return ShareRequest(shares=tuple(map(parse, texts)), is_default=True)
    except ShareError as error:
        raise error.prefixed(f"{source}: ") from error


def in_ci() -> bool:
    """Return whether this is a job of a CI system."""
    return os.environ.get("CI", "").lower() not in _NOT_CI


def _home() -> ShareRequest:
    """Return the default that is the home folder. A driver's own default is the home, too, and stays."""
    default = _default_of(_home_folder(), problem="the home folder of this user is not known")
    return replace(default, keeps_driver_defaults=True)


def _current() -> ShareRequest:
    folder = current_folder()
    if folder is None:
        return _default_of(None, problem="the current folder was removed")
    return _unless_with_home(folder, name="the current folder")


def _unless_with_home(folder: Path, *, name: str) -> ShareRequest:
    home = _home_folder()
    if home and Path(os.path.realpath(home)).is_relative_to(os.path.realpath(folder)):
        # It has the store with its keys, and is shared by these commands only if the user says so.
        return _default_of(None, problem=f"your home folder is in {name}")
    return _default_of(folder)


def _home_folder() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor the system's users have it
        return None


def _default_of(folder: Path | None, *, problem: str = "") -> ShareRequest:
    """Return the default that is one folder, or `problem`, or the problem of that folder."""
    from pymachine.hosts.shares import ShareError, ShareRequest, at_same_path  # noqa: PLC0415 (not for the help)

    try:
        shares = () if folder is None else (at_same_path(folder),)
    except ShareError as error:
        return ShareRequest(is_default=True, problem=error.brief)
    return ShareRequest(shares=shares, is_default=True, problem="" if shares else problem)


def current_folder() -> Path | None:
    """Return the current folder under the name that the shell shows, or None if it was removed."""
    try:
        actual = Path.cwd()
    except OSError:
        return None
    shown = Path(os.environ.get("PWD", ""))
    # With .. it could be another folder without it: above the target of a symbolic link.
    is_usable = shown.is_absolute() and ".." not in shown.parts
    return shown if is_usable and _is_same(shown, actual) else actual


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _configured(store: Path) -> Mapping[str, list[str]]:
    """Return the default shares of each command in config.toml."""
    path = store / paths.USER_CONFIG
    if not os.path.lexists(path):
        return {}
    from pymachine.store import user_config  # noqa: PLC0415 (needed only with such a file)

    return user_config.shares(path)
