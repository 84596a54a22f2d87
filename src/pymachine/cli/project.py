"""Shared parts of the commands for projects: their options, whose defaults are in the project file, and its scripts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pymachine.cli import create_options, goflags, machine_args, project_file, share_options
from pymachine.cli.context import App
from pymachine.cli.output import echo
from pymachine.cli.project_file import ProjectFile, ProjectFileError
from pymachine.driver import registry
from pymachine.driver.contract import Driver, Trait
from pymachine.driver.options import OptionKind
from pymachine.errors import PymachineError
from pymachine.hosts.origins import HARDWARE, hardware_option
from pymachine.system import printable

if TYPE_CHECKING:
    from pymachine.hosts.provision_scripts import Script

FILE_VARIABLE = "PYMACHINE_FILE"
# The keys of [machine] for hardware, by the end of the driver's option.
_HARDWARE = dict(zip(HARDWARE, ("cpus", "memory", "disk"), strict=True))
# The type of value that the file has for an option of a driver.
KINDS = {
    OptionKind.STRING: project_file.TEXT,
    OptionKind.STRINGS: project_file.TEXTS,
    OptionKind.INTEGER: project_file.SIZE,
    OptionKind.BOOLEAN: project_file.BOOLEAN,
    OptionKind.SIZE: project_file.SIZE,
}
file_flag = goflags.flag(
    "--file",
    env=FILE_VARIABLE,
    help=f"Use this project file instead of the nearest {project_file.NAME}",
    shell_complete=machine_args.complete_file,
)
no_file_flag = goflags.flag("--no-file", is_flag=True, help="Use no project file")
name_flag = goflags.flag("--name", help="Name of the machine (default: that of the project file, or of its folder)")


class ProjectCommand(create_options.DriverOptionsCommand):
    """A command with the options of `create`, whose defaults are those of the project file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the project file first: it may name the driver, and it has values of options."""
        file = None if _wants_help(self, ctx, args) else _file(self, args)
        if file is None:
            return super().parse_args(ctx, args)
        project_file.use(ctx, file)
        _preset_options(ctx, file)
        driver_name = self.driver_name(ctx, args)
        try:
            kind = registry.load(driver_name)
        except PymachineError as error:
            if file.machine.get("driver") != driver_name:
                raise
            raise error.prefixed(f"{file.place('driver')}: ") from error
        _preset_driver_options(ctx, file, driver_name, kind)
        return super().parse_args(ctx, args)


def required(ctx: click.Context) -> ProjectFile:
    """Return the project file of a command. Raises `ProjectFileError` if there is none."""
    file = project_file.of(ctx)
    if file is None:
        raise _missing()
    return file


def read_for(file: str) -> ProjectFile:
    """Return the project file at `file`, or the nearest one if it is empty. Raises `ProjectFileError`."""
    found = _read(file)
    if found is None:
        raise _missing()
    return found


def announce(app: App, file: ProjectFile) -> None:
    """Say which file is used."""
    app.reporter.info(f"Using {file.path}")


def machine_name(file: ProjectFile, flag: str) -> str:
    """Return the name of the project's machine. Raises `InvalidNameError`, which names the key."""
    from pymachine.driver.names import check_new_name  # noqa: PLC0415
    from pymachine.hosts.project import default_name  # noqa: PLC0415 (the help does not need it)

    if flag or "name" not in file.machine:
        return flag or default_name(file.folder)
    name = str(file.machine["name"])
    try:
        check_new_name(name)
    except PymachineError as error:
        raise error.prefixed(f"{file.place('name')}: ") from error
    return name


def script_places(file: ProjectFile) -> dict[Path, bool]:
    """Return the paths of the provision scripts, and whether each is in the file's folder.

    The folder may be shared with a machine that changes it, so this is decided once. Raises `ProjectFileError`.
    """
    paths = [Path(os.path.normpath(file.folder / text)) for text in file.texts("provision")]
    if len(set(paths)) < len(paths):
        raise ProjectFileError(f"{file.place('provision')} names a script twice")
    return {path: file.contains(path) for path in paths}


def scripts(file: ProjectFile, places: Mapping[Path, bool], driver_name: str) -> list[Script]:
    """Read the provision scripts of the file, for a machine of that driver.

    `places` is the result of `script_places`. Raises `ProvisionScriptError` and `ProjectFileError`.
    """
    from pymachine.hosts import provision_scripts  # noqa: PLC0415 (the help does not need it)

    if places and Trait.NO_SSH in registry.load(driver_name).info.traits:
        raise ProjectFileError(
            f"{file.place('provision')} is set, but machines of the driver {driver_name} have no SSH"
        )
    return [
        provision_scripts.read(path, within=file.folder if is_inside else None) for path, is_inside in places.items()
    ]


@contextmanager
def naming_keys(ctx: click.Context) -> Iterator[None]:
    """Name the key and the file in errors about an option whose value comes from the project file."""
    from pymachine.hosts.shares import ShareError  # noqa: PLC0415 (the help does not need it)

    try:
        yield
    except PymachineError as error:
        for name, flag in create_options.from_file(ctx):
            place = goflags.presets(ctx)[name].source
            for option in (flag.opts[0], *_options_of_modify(flag)):
                error.brief = place.join(re.split(rf"{re.escape(option)}(?![\w-])", error.brief))
        error.args = (error.brief,)
        file = project_file.of(ctx)
        if isinstance(error, ShareError) and file is not None and share_options.SHARES in file.machine:
            place = file.place(share_options.SHARES)
            raise (error if place in error.brief else error.prefixed(f"{place}: ")) from error.__cause__
        raise


def _wants_help(command: goflags.GoCommand, ctx: click.Context, args: Sequence[str]) -> bool:
    """Return whether the command only completes words or prints its help, for which no file is read."""
    return ctx.resilient_parsing or any(
        create_options.early_value(command, args, name) is not None for name in ("h", "help")
    )


def _file(command: goflags.GoCommand, args: Sequence[str]) -> ProjectFile | None:
    names = {name for param in command.params for name in getattr(param, "flag_names", ())}
    if "no-file" in names and create_options.early_value(command, args, "no-file") not in (None, *goflags.FALSE):
        return None
    return _read(create_options.early_value(command, args, "file") or os.environ.get(FILE_VARIABLE, ""))


def _read(text: str) -> ProjectFile | None:
    """Return the project file at the path `text`, or the nearest one, or None if there is none."""
    folder = share_options.current_folder()
    if text:
        path = Path(os.path.normpath(os.path.join(folder or os.sep, os.path.expanduser(text))))  # noqa: PTH111, PTH118
    else:
        found = project_file.find(folder) if folder else None
        if found is None:
            return None
        path = found
    engine = {flag.opts[0].removeprefix("--engine-"): flag for flag in create_options.engine_flags()}
    kinds = {key: project_file.TEXTS if flag.multiple else project_file.TEXT for key, flag in engine.items()}
    return project_file.read(path, engine_keys=kinds)


def _missing() -> ProjectFileError:
    return ProjectFileError(
        f"there is no {project_file.NAME} in this folder, nor in a folder above it",
        hint=f"Write one. An empty file is enough for a machine with all defaults: touch {project_file.NAME}",
    )


def _preset_options(ctx: click.Context, file: ProjectFile) -> None:
    """Make the values of the file the defaults of the command's own options."""
    presets, machine = goflags.presets(ctx), file.machine
    for key in ("driver", "tls-san", "socket", "ipv6", "ipv6-ports", "container-proxy"):
        if key in machine:
            presets[key.replace("-", "_")] = goflags.Preset(machine[key], file.place(key))
    if "shares" in machine:
        presets["share"] = goflags.Preset(machine["shares"], file.place("shares"))
    if "ca-certs" in machine:
        found = [os.path.normpath(file.folder / text) for text in file.texts("ca-certs")]
        presets["ca_cert"] = goflags.Preset(found, file.place("ca-certs"))
    template = machine.get("template")
    if isinstance(template, str):
        presets["template"] = goflags.Preset(template, file.place("template"))
    elif template is not None:
        presets["no_template"] = goflags.Preset(not template, file.place("template"))
    for key in ("share-events", "host-proxy"):
        if key in machine:
            presets["no_" + key.replace("-", "_")] = goflags.Preset(not machine[key], file.place(key))
    for flag in create_options.engine_flags():
        key = flag.opts[0].removeprefix("--engine-")
        if key in file.engine:
            presets[flag.name or ""] = goflags.Preset(file.engine[key], file.place(f"engine.{key}"))


def _preset_driver_options(ctx: click.Context, file: ProjectFile, driver_name: str, kind: type[Driver]) -> None:
    """Make the values of the file the defaults of the driver's options. Raises `ProjectFileError`."""
    presets = goflags.presets(ctx)
    options = {option.name: option for option in kind.options()}
    for end, key in _HARDWARE.items():
        if key not in file.machine:
            continue
        name = hardware_option(driver_name, end)
        if name not in options:
            raise ProjectFileError(f"{file.place(key)} is set, but the driver {driver_name} has no such option")
        if name in file.options:
            raise ProjectFileError(f"{file.place(key)} and {project_file.OPTIONS}.{name} are the same option")
        presets[create_options.parameter(options[name])] = goflags.Preset(file.machine[key], file.place(key))
    for name, value in file.options.items():
        key = f"{project_file.OPTIONS}.{name}"
        if name in options:
            expected = KINDS[options[name].kind]
            if not expected.fits(value):
                raise ProjectFileError(
                    f"{file.place(key)} is {project_file.described(value)}, expected {expected.expected}"
                )
            presets[create_options.parameter(options[name])] = goflags.Preset(value, file.place(key))
        elif not _is_of_another_driver(name, driver_name):
            raise project_file.unknown(
                file.path, f"{project_file.MACHINE}.{key}", options, what=f"option of the driver {driver_name} called"
            )


def _is_of_another_driver(option: str, driver_name: str) -> bool:
    """Return whether another driver has the option, so that a file can have options for several drivers."""
    for name in registry.names():
        if name != driver_name:
            with suppress(Exception):  # a package that cannot be imported has no options
                if any(each.name == option for each in registry.load(name).options()):
                    return True
    return False


def _options_of_modify(flag: goflags.Flag) -> list[str]:
    """Return the option of `modify`, which `up --apply` uses, for an option of the driver for hardware."""
    ends = {"cpu-count": "--cpus", "memory": "--memory", "disk-size": "--disk-size"}
    return [option for end, option in ends.items() if flag.opts[0].endswith(f"-{end}")]


def scripts_output(app: App, *, err: bool) -> Any:
    """Return the function that shows a line of a script's output."""
    return lambda text: echo(printable.block(text), err=err or app.structured)
