"""The options for shared folders, and the folders that are shared by default."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymachine.cli import goflags
from pymachine.store import paths

if TYPE_CHECKING:
    from pymachine.hosts.shares import ShareRequest

VARIABLE = "PYMACHINE_SHARE"
# Values of CI that mean that this is no CI job.
_NOT_CI = ("", "0", "false")

_FLAGS: tuple[Callable[[Any], Any], ...] = (
    goflags.flag(
        "--share",
        multiple=True,
        env=VARIABLE,
        help="Share a folder of this host, as PATH[:GUEST_PATH][:ro], instead of the default one",
    ),
    goflags.flag("--no-share", is_flag=True, env="PYMACHINE_NO_SHARE", help="Share no folder of this host"),
)


def flags(function: Any) -> Any:
    """Decorate a command's function with the options for a new machine's shared folders."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


def request(store: Path, given: Mapping[str, Any], *, command: str) -> ShareRequest:
    """Return the folders that a new machine shares: those of the command line, else the default of `command`.

    The default is that of config.toml in `store`, else the home folder for ``create``, and the current folder for
    ``run`` and in CI. Raises `ShareError`, and `ConfigError` for a wrong config.toml.
    """
    from pymachine.hosts.shares import ShareRequest, parse  # noqa: PLC0415 (the help does not need it)

    if given["no_share"]:
        return ShareRequest()
    if given["share"]:
        folder = current_folder()
        return ShareRequest(shares=tuple(parse(text, base=folder) for text in given["share"]))
    configured = _configured(store).get(command)
    if configured is not None:
        return ShareRequest(shares=tuple(parse(text, base=None) for text in configured))
    return _default(home=command == "create" and os.environ.get("CI", "").lower() in _NOT_CI)


def _default(*, home: bool) -> ShareRequest:
    """Return the home or the current folder, or no folder if it cannot be in a guest at its own path.

    A driver's own default is the home too, so it is left out where only the current folder is shared.
    """
    from pymachine.hosts.shares import ShareError, ShareRequest, parse  # noqa: PLC0415 (the help does not need it)

    folder = Path.home() if home else current_folder()
    try:
        shares = () if folder is None else (parse(str(folder), base=None),)
    except ShareError:
        shares = ()
    return ShareRequest(shares=shares, is_default=True, keeps_driver_defaults=home)


def current_folder() -> Path | None:
    """Return the current folder under the name that the shell shows, or None if it was removed."""
    try:
        actual = Path.cwd()
    except OSError:
        return None
    shown = Path(os.environ.get("PWD", ""))
    return shown if shown.is_absolute() and _is_same(shown, actual) else actual


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _configured(store: Path) -> Mapping[str, list[str]]:
    """Return the default shares of each command in config.toml."""
    path = store / paths.USER_CONFIG
    if not path.exists():
        return {}
    from pymachine.store import user_config  # noqa: PLC0415 (needed only with such a file)

    return user_config.shares(path)
