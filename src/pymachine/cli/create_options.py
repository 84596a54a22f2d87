"""Options shared by the commands that create machines: those of the chosen driver and those of the engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pymachine.cli import goflags
from pymachine.cli.context import App
from pymachine.cli.errors import FlagError
from pymachine.driver import registry
from pymachine.driver.contract import Json
from pymachine.driver.options import Option, OptionKind

if TYPE_CHECKING:
    from pymachine.store.record import EngineOptions

DRIVER_VARIABLE = "MACHINE_DRIVER"


class DriverOptionsCommand(goflags.GoCommand):
    """A command with the options of the driver that its command line names."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and the driver's, sorted by flag for the help."""
        own = super().get_params(ctx)
        flags = [*own, *ctx.meta.get(__name__, ())]
        return sorted(flags, key=lambda param: (isinstance(param, click.Option), param.opts[0].lstrip("-")))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the driver first, since it decides which options exist."""
        kind = registry.load(_named_driver(args))
        ctx.meta[__name__] = [_flag(option) for option in kind.options()]
        super().parse_args(ctx, args)
        given = {param.name or "": param.opts[0].lstrip("-") for param in ctx.meta[__name__]}
        if "engine_install_url" in ctx.params:
            # docker-machine ran the default script on every host. Here it runs only if the option is given.
            asked = ctx.get_parameter_source("engine_install_url") is not ParameterSource.DEFAULT
            ctx.params["install_script"] = ctx.params["engine_install_url"] if asked else ""
        ctx.params["options"] = {option: ctx.params.pop(name) for name, option in given.items()}
        return []


def _named_driver(words: Sequence[str]) -> str:
    """Return the driver that a command line names, before its other options can be parsed."""
    chosen = os.environ.get(DRIVER_VARIABLE) or registry.default_name()
    for index, word in enumerate(words):
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in {"d", "driver"}:
            continue
        if equals:
            chosen = value
        elif index + 1 < len(words):
            chosen = words[index + 1]
    return chosen


def _flag(option: Option) -> goflags.Flag:
    kinds: dict[OptionKind, dict[str, Any]] = {
        OptionKind.STRING: {},
        OptionKind.STRINGS: {"multiple": True},
        OptionKind.INTEGER: {"type": int},
        OptionKind.BOOLEAN: {"is_flag": True},
    }
    default: Json = option.default
    return goflags.Flag(
        [f"--{option.name}", "driver_" + option.name.replace("-", "_")],
        env=option.env,
        help=option.help,
        default=default,
        **kinds[option.kind],
    )


driver_flag = goflags.flag(
    "--driver",
    "-d",
    default=registry.default_name,
    env=DRIVER_VARIABLE,
    help="Driver to create machine with",
    shell_complete=goflags.one_of(registry.names),
)
_FLAGS: tuple[Callable[[Any], Any], ...] = (
    driver_flag,
    goflags.flag(
        "--engine-install-url",
        default="https://get.docker.com",
        env="MACHINE_DOCKER_INSTALL_URL",
        help="Install the engine on an existing host with this script instead of the distribution's packages",
    ),
    goflags.flag(
        "--engine-opt",
        multiple=True,
        help="Specify arbitrary flags to include with the created engine in the form flag=value",
    ),
    goflags.flag(
        "--engine-insecure-registry", multiple=True, help="Specify insecure registries to allow with the created engine"
    ),
    goflags.flag(
        "--engine-registry-mirror", multiple=True, env="ENGINE_REGISTRY_MIRROR", help="Specify registry mirrors to use"
    ),
    goflags.flag("--engine-label", multiple=True, help="Specify labels for the created engine"),
    goflags.flag("--engine-storage-driver", help="Specify a storage driver to use with the engine"),
    goflags.flag("--engine-env", multiple=True, help="Specify environment variables to set in the engine"),
    goflags.flag("--tls-san", multiple=True, help="Support extra SANs for TLS certs"),
    goflags.flag(
        "--no-template",
        is_flag=True,
        env="PYMACHINE_NO_TEMPLATE",
        help="Boot instead of cloning a template",
    ),
    goflags.flag("--ttl", help="Time to live, such as 2h or 1h30m; prune and create remove expired machines"),
)


def flags(function: Any) -> Any:
    """Decorate a command's function with the options of a new machine and its engine."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


def engine_options(given: Mapping[str, Any]) -> EngineOptions:
    """Return the engine options that the command line gives."""
    from pymachine.store.record import EngineOptions  # noqa: PLC0415 (the help does not need it)

    return EngineOptions(
        arbitrary_flags=list(given["engine_opt"]),
        env=list(given["engine_env"]),
        insecure_registry=list(given["engine_insecure_registry"]),
        labels=list(given["engine_label"]),
        storage_driver=given["engine_storage_driver"],
        registry_mirror=list(given["engine_registry_mirror"]),
        install_url=given["engine_install_url"],
    )


def expiry_time(given: Mapping[str, Any]) -> int | None:
    """Return when the time to live ends, in seconds since 1970, or None without one. Raises `FlagError`."""
    if not given["ttl"]:
        return None
    import time  # noqa: PLC0415

    from pymachine.system import durations  # noqa: PLC0415

    try:
        seconds = durations.parse(given["ttl"])
    except ValueError as error:
        raise FlagError(f'invalid value "{given["ttl"]}" for flag -ttl: {error}') from None
    return int(time.time() + seconds)


def prune_expired(app: App) -> None:
    """Remove expired machines. If one cannot be removed, warn and go on."""
    from pymachine.hosts import prune  # noqa: PLC0415
    from pymachine.hosts.sweep import sweep  # noqa: PLC0415

    sweep(app.hosts)
    for expired in prune.find(app.store):
        prune.remove_expired(app.hosts, expired)
