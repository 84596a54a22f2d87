"""Options shared by the commands that create machines: those of the chosen driver and those of the engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App
from pymachine.cli.errors import FlagError
from pymachine.driver import registry
from pymachine.driver.contract import Driver, Json, Trait
from pymachine.driver.options import Option, OptionKind

if TYPE_CHECKING:
    from pymachine.hosts.create import CreateRequest
    from pymachine.store.origins import Origin
    from pymachine.store.record import EngineOptions

DRIVER_VARIABLE = "MACHINE_DRIVER"
PROGRAM_FLAG, PROGRAM_VARIABLE = "plugin-program", "PYMACHINE_PLUGIN_PROGRAM"
_HELP = ("h", "help")
# The sources of a flag's value, the one that wins first.
_SOURCES = (
    ParameterSource.COMMANDLINE,
    ParameterSource.ENVIRONMENT,
    ParameterSource.DEFAULT_MAP,
    ParameterSource.DEFAULT,
)


class DriverOptionsCommand(goflags.GoCommand):
    """A command with the options of the driver that its command line names."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and the driver's, sorted by flag for the help."""
        own = super().get_params(ctx)
        flags = [*own, *ctx.meta.get(__name__, {})]
        return sorted(flags, key=lambda param: (isinstance(param, click.Option), param.opts[0].lstrip("-")))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the driver first, since it decides which options exist."""
        program = early_value(self, args, PROGRAM_FLAG)
        if program is not None:
            os.environ[PROGRAM_VARIABLE] = program  # the finders of drivers read this variable
        kind = registry.load(self.driver_name(ctx, args))
        if program and Trait.FOREIGN_CONFIG not in kind.info.traits:
            raise FlagError(f"--{PROGRAM_FLAG}: the driver {kind.info.name} needs no program, since pymachine has it")
        ctx.meta[__name__] = {_flag(option): option for option in kind.options()}
        super().parse_args(ctx, args)
        _ignore_unsupported_variable(ctx, kind)
        _choose_template(ctx)
        given = {parameter(option): option.name for option in ctx.meta[__name__].values()}
        if "engine_install_url" in ctx.params:
            # docker-machine ran the default script on every host. Here it runs only if the option is given.
            asked = ctx.get_parameter_source("engine_install_url") is not ParameterSource.DEFAULT
            ctx.params["install_script"] = ctx.params["engine_install_url"] if asked else ""
        ctx.params["options"] = {option: ctx.params.pop(name) for name, option in given.items()}
        return []

    def driver_name(self, ctx: click.Context, args: Sequence[str]) -> str:
        """Return the name of the driver, before the other options can be parsed."""
        named = early_value(self, args, "d", "driver")
        if named is not None:
            return named
        preset = goflags.presets(ctx).get("driver")
        return os.environ.get(DRIVER_VARIABLE) or (str(preset.value) if preset else registry.default_name())


def _ignore_unsupported_variable(ctx: click.Context, kind: type[Driver]) -> None:
    """Ignore ``PYMACHINE_CONTAINER_PROXY`` for drivers without proxies: as a default, it is for the other ones."""
    name = "container_proxy"
    if ctx.get_parameter_source(name) is not ParameterSource.ENVIRONMENT:
        return
    from pymachine.hosts import proxies  # noqa: PLC0415 (the help does not need it)

    if not proxies.supported(kind):
        ctx.params[name] = False
        ctx.set_parameter_source(name, ParameterSource.DEFAULT)


def _choose_template(ctx: click.Context) -> None:
    """If both ``--template`` and ``--no-template`` have a value, keep only that of the nearer source.

    Raises `FlagError` if both come from the same source.
    """
    if ctx.resilient_parsing or not (ctx.params["template"] and ctx.params["no_template"]):
        return
    flags = {param.name: param for param in ctx.command.get_params(ctx) if isinstance(param, goflags.Flag)}
    template, no_template = flags["template"], flags["no_template"]
    ranks = {name: _SOURCES.index(_source(ctx, name)) for name in ("template", "no_template")}
    if ranks["template"] == ranks["no_template"]:
        raise FlagError(f"{source(ctx, template)[1]} and {source(ctx, no_template)[1]} exclude each other")
    farther = max(ranks, key=lambda name: ranks[name])
    ctx.params[farther] = flags[farther].default_value
    ctx.set_parameter_source(farther, ParameterSource.DEFAULT)


def _source(ctx: click.Context, name: str) -> ParameterSource:
    return ctx.get_parameter_source(name) or ParameterSource.DEFAULT


def early_value(command: goflags.GoCommand, words: Sequence[str], *names: str) -> str | None:
    """Return the last value of the flag called `names` on a command line whose driver's options are not known yet."""
    own = {name: flag for flag in command.params if isinstance(flag, goflags.Flag) for name in flag.flag_names}
    found = None
    rest = list(reversed(words))
    while rest and rest[-1] != "--":
        word = rest.pop()
        if not word.startswith("-") or word == "-":
            if not command.interspersed:
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals and (name in _HELP or (name in own and own[name].is_flag)):
            value = ""
        elif not equals and rest and (name in own or _takes_value(name, words, rest[-1])):
            value = rest.pop()
        elif not equals:
            continue
        if name in names:
            found = value
    return found


def _takes_value(name: str, words: Sequence[str], following: str) -> bool:
    """Return whether `following` is the value of the flag `name`, which is an option of a driver.

    Most options begin with the driver's name. The other drivers are loaded only if that does not find it.
    """
    for driver in sorted(registry.names(), key=lambda each: (not name.startswith(f"{each}-"), each not in words)):
        with suppress(Exception):  # a package that cannot be imported has no options
            for option in registry.load(driver).options():
                if option.name == name:
                    return option.kind is not OptionKind.BOOLEAN
    return not following.startswith("-")


def parameter(option: Option) -> str:
    """Return the name of the parameter for an option of a driver."""
    return "driver_" + option.name.replace("-", "_")


def _flag(option: Option) -> goflags.Flag:
    kinds: dict[OptionKind, dict[str, Any]] = {
        OptionKind.STRING: {},
        OptionKind.STRINGS: {"multiple": True},
        OptionKind.INTEGER: {"type": int},
        OptionKind.BOOLEAN: {"is_flag": True},
        OptionKind.SIZE: {"type": goflags.SIZE},
    }
    default: Json = option.default
    return goflags.Flag(
        [f"--{option.name}", parameter(option)],
        env=option.env,
        help=option.help,
        default=default,
        default_text=option.default_text,
        **kinds[option.kind],
    )


driver_flag = goflags.flag(
    "--driver",
    "-d",
    default=registry.default_name,
    env=DRIVER_VARIABLE,
    help="Driver to create machine with",
    shell_complete=goflags.one_of(lambda: [*registry.names(), *registry.found_names()]),
)
_FLAGS: tuple[Callable[[Any], Any], ...] = (
    driver_flag,
    goflags.flag(
        f"--{PROGRAM_FLAG}",
        env=PROGRAM_VARIABLE,
        help="docker-machine or rancher-machine program that has the driver built in",
        shell_complete=machine_args.complete_file,
    ),
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
    goflags.flag(
        "--template",
        env="PYMACHINE_TEMPLATE",
        help="Clone this template, with its images and containers, instead of one that is empty",
        shell_complete=machine_args.complete_named_template,
    ),
    goflags.flag(
        "--socket",
        is_flag=True,
        help="Also make a unix socket that reaches the engine over SSH, for programs without TLS",
    ),
    goflags.flag("--ipv6", is_flag=True, help="Let the machine and its containers use IPv6 as this host does"),
    goflags.flag("--ipv6-ports", is_flag=True, help="Forward the open ports of the machine from ::1 too"),
    goflags.flag(
        "--ca-cert",
        multiple=True,
        help="Trust the CA certificates in this file (PEM or DER) in the machine",
        shell_complete=machine_args.complete_file,
    ),
    goflags.flag(
        "--no-host-proxy",
        is_flag=True,
        env="PYMACHINE_NO_HOST_PROXY",
        help="Do not let the engine use the proxies in HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
    ),
    goflags.flag(
        "--container-proxy",
        is_flag=True,
        env="PYMACHINE_CONTAINER_PROXY",
        help="Let docker set the engine's proxies in containers and builds too",
    ),
    goflags.flag("--ttl", help="Time to live, such as 2h or 1h30m; prune and create remove expired machines"),
)
# Those whose origin is recorded, in addition to the driver's and `--share`.
_RECORDED = {
    *("driver", "engine_install_url", "engine_opt", "engine_insecure_registry", "engine_registry_mirror"),
    *("engine_label", "engine_storage_driver", "engine_env", "tls_san", "no_template", "no_share_events", "socket"),
    *("ipv6", "ipv6_ports", "ca_cert", "no_host_proxy", "container_proxy"),
}


def engine_flags() -> list[goflags.Flag]:
    """Return the flags of the engine's options, ``--engine-*``."""
    command = click.Command("create")
    flags(command)
    found = [param for param in command.params if isinstance(param, goflags.Flag)]
    return [param for param in found if param.opts[0].startswith("--engine-")]


def flags(function: Any) -> Any:
    """Decorate a command's function with the options of a new machine and its engine."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


def request(name: str, given: Mapping[str, Any], **others: Any) -> CreateRequest:
    """Return the request for a machine with the options of `flags` and for shared folders, and `others`.

    Raises `FlagError`.
    """
    from pymachine.hosts import proxies  # noqa: PLC0415 (the help does not need it)
    from pymachine.hosts.create import CreateRequest  # noqa: PLC0415
    from pymachine.store.proxies import Proxies, of_environment  # noqa: PLC0415

    # Other drivers ignore the variables, even unusable ones.
    uses_proxies = not given["no_host_proxy"] and proxies.supported(registry.load(given["driver"]))
    return CreateRequest(
        name=name,
        driver_name=given["driver"],
        options=given["options"],
        engine=engine_options(given),
        sans=tuple(given["tls_san"]),
        template=not given["no_template"],
        named_template=given["template"],
        expires=expiry_time(given),
        install_script=given["install_script"],
        share_events=not given["no_share_events"],
        socket=given["socket"],
        ipv6_ports=given["ipv6_ports"],
        proxies=of_environment(os.environ) if uses_proxies else Proxies(),
        container_proxy=given["container_proxy"],
        ca_certificates=tuple(ca_certificates(given["ca_cert"])),
        **others,
    )


def ca_certificates(words: Sequence[str]) -> list[str]:
    """Return the certificates in the files that ``--ca-cert`` names, in PEM. Raises `CaCertificateError`."""
    if not words:
        return []
    from pymachine.tls import trusted_cas  # noqa: PLC0415 (cryptography)

    return trusted_cas.read_all([Path(word) for word in words])


def origins(ctx: click.Context, *, share: Origin) -> dict[str, Origin]:
    """Return where the values of the options of a new machine came from. `share` is that of its shared folders.

    Defaults that are empty are left out, and secrets.
    """
    from pymachine.hosts.origins import DRIVER, SHARE  # noqa: PLC0415 (the help does not need it)
    from pymachine.store.origins import DEFAULT, Origin  # noqa: PLC0415

    drivers = of_driver(ctx)
    secrets = {parameter(option) for option in ctx.meta[__name__].values() if option.is_secret}
    found = {}
    for param in ctx.command.get_params(ctx):
        name = param.name or ""
        if not isinstance(param, goflags.Flag) or name not in {*drivers, *_RECORDED} - secrets:
            continue
        option = param.opts[0].lstrip("-")
        value = ctx.params["options"][option] if name in drivers else ctx.params[name]
        kind, where = source(ctx, param)
        if kind != DEFAULT or option == DRIVER or (name in drivers and value not in (None, "", (), [], False)):
            kept = list(value) if isinstance(value, tuple) else value
            found[option] = Origin(kind, where, kept if name in {*drivers, "no_template"} else None)
    return {**found, SHARE: share}


def source(ctx: click.Context, flag: goflags.Flag) -> tuple[str, str]:
    """Return the kind of source that a flag's value comes from, and its name."""
    from pymachine.store import origins  # noqa: PLC0415 (the help does not need it)

    name = flag.name or ""
    kind = ctx.get_parameter_source(name)
    if kind is ParameterSource.COMMANDLINE:
        return origins.FLAG, flag.opts[0]
    if kind is ParameterSource.ENVIRONMENT:
        return origins.VARIABLE, flag.env or ""
    if kind is ParameterSource.DEFAULT_MAP:
        return origins.FILE, goflags.presets(ctx)[name].source
    return origins.DEFAULT, ""


def from_file(ctx: click.Context) -> Iterator[tuple[str, goflags.Flag]]:
    """Yield the parameters whose value comes from the project file, with their flags."""
    yield from _from(ctx, ParameterSource.DEFAULT_MAP)


def from_command_line(ctx: click.Context) -> Iterator[tuple[str, goflags.Flag]]:
    """Yield the parameters whose value comes from the command line, with their flags."""
    yield from _from(ctx, ParameterSource.COMMANDLINE)


def _from(ctx: click.Context, where: ParameterSource) -> Iterator[tuple[str, goflags.Flag]]:
    for param in ctx.command.get_params(ctx):
        name = param.name or ""
        if isinstance(param, goflags.Flag) and ctx.get_parameter_source(name) is where:
            yield name, param


def of_driver(ctx: click.Context) -> set[str]:
    """Return the parameters of a command that are options of its driver."""
    return {parameter(option) for option in ctx.meta[__name__].values()}


def engine_options(given: Mapping[str, Any]) -> EngineOptions:
    """Return the engine options that the command line gives."""
    from pymachine.store.record import EngineOptions  # noqa: PLC0415 (the help does not need it)

    return EngineOptions(
        arbitrary_flags=list(given["engine_opt"]),
        env=list(given["engine_env"]),
        ipv6=given["ipv6"],
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
