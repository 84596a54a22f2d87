"""`create`: make a machine. The options of the chosen driver join the command's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from pymachine import registry
from pymachine.cli import goflags, machines
from pymachine.cli.context import App, current
from pymachine.cli.errors import HelpfulUsageError, RunError
from pymachine.driver import Json, Option, OptionKind

DEFAULT_DRIVER = "qemu"
DRIVER_VARIABLE = "MACHINE_DRIVER"


class Create(goflags.GoCommand):
    """The command with the flags of the driver that its words name."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Our own parameters and the driver's, sorted by flag for the help."""
        own = super().get_params(ctx)
        flags = [*own, *ctx.meta.get(__name__, ())]
        return sorted(flags, key=lambda param: (isinstance(param, click.Option), param.opts[0].lstrip("-")))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find the driver first, since it decides which flags there are."""
        kind = registry.load(_driver_in(args))
        ctx.meta[__name__] = [_flag(option) for option in kind.options()]
        super().parse_args(ctx, args)
        given = {param.name or "": param.opts[0].lstrip("-") for param in ctx.meta[__name__]}
        ctx.params["options"] = {option: ctx.params.pop(name) for name, option in given.items()}
        return []


def _driver_in(words: Sequence[str]) -> str:
    """The driver that a command line names, before its other flags can be known."""
    chosen = os.environ.get(DRIVER_VARIABLE) or DEFAULT_DRIVER
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


@click.command("create", cls=Create)
@goflags.flag("--driver", "-d", default=DEFAULT_DRIVER, env=DRIVER_VARIABLE, help="Driver to create machine with")
@goflags.flag(
    "--engine-install-url",
    default="https://get.docker.com",
    env="MACHINE_DOCKER_INSTALL_URL",
    help="Custom URL to use for engine installation",
)
@goflags.flag(
    "--engine-opt",
    multiple=True,
    help="Specify arbitrary flags to include with the created engine in the form flag=value",
)
@goflags.flag(
    "--engine-insecure-registry", multiple=True, help="Specify insecure registries to allow with the created engine"
)
@goflags.flag(
    "--engine-registry-mirror", multiple=True, env="ENGINE_REGISTRY_MIRROR", help="Specify registry mirrors to use"
)
@goflags.flag("--engine-label", multiple=True, help="Specify labels for the created engine")
@goflags.flag("--engine-storage-driver", help="Specify a storage driver to use with the engine")
@goflags.flag("--engine-env", multiple=True, help="Specify environment variables to set in the engine")
@goflags.flag("--swarm", is_flag=True, help="Refused: Swarm standalone is gone from Docker")
@goflags.flag("--swarm-image", default="swarm:latest", env="MACHINE_SWARM_IMAGE", help="Accepted, without effect")
@goflags.flag("--swarm-master", is_flag=True, help="Refused: Swarm standalone is gone from Docker")
@goflags.flag("--swarm-discovery", help="Refused: Swarm standalone is gone from Docker")
@goflags.flag("--swarm-strategy", default="spread", help="Accepted, without effect")
@goflags.flag("--swarm-opt", multiple=True, help="Accepted, without effect")
@goflags.flag("--swarm-join-opt", multiple=True, help="Accepted, without effect")
@goflags.flag("--swarm-host", default="tcp://0.0.0.0:3376", help="Accepted, without effect")
@goflags.flag("--swarm-addr", help="Accepted, without effect")
@goflags.flag("--swarm-experimental", is_flag=True, help="Accepted, without effect")
@goflags.flag("--tls-san", multiple=True, help="Support extra SANs for TLS certs")
@goflags.flag("--docker-context", is_flag=True, help="Also make a docker context of that name, which goes with it")
@goflags.flag(
    "--no-template", is_flag=True, env="PYMACHINE_NO_TEMPLATE", help="Boot from power-on, and make no template"
)
@goflags.flag("--timings", is_flag=True, help="Print how many seconds each part took")
@goflags.arguments("names", "NAME")
@click.pass_context
def command(ctx: click.Context, /, names: tuple[str, ...], **given: Any) -> None:
    """Create a machine."""
    app = current(ctx)
    if not names:
        raise HelpfulUsageError("Error: No machine name specified", usage=ctx.get_help())
    if len(names) > 1:
        raise RunError(f"Invalid command line. Found extra arguments [{' '.join(names[1:])}]")
    _refuse_swarm(given)
    _create(app, names[0], given)


def _refuse_swarm(given: dict[str, Any]) -> None:
    discovery = given["swarm_discovery"]
    if discovery and "://" not in discovery:
        raise RunError(f"Error parsing swarm discovery: Swarm Discovery URL was in the wrong format: {discovery}")
    for name in ("swarm", "swarm_master", "swarm_discovery"):
        if given[name]:
            flag = name.replace("_", "-")
            raise RunError(
                f"--{flag} is not supported: Docker removed Swarm standalone, whose image no longer exists",
                hint="Create machines without it, then use swarm mode: docker swarm init, docker swarm join.",
            )


def _create(app: App, name: str, given: dict[str, Any]) -> None:
    from pymachine.machine import EngineOptions, SwarmOptions  # noqa: PLC0415 (the help needs neither)
    from pymachine.manager import CreateRequest  # noqa: PLC0415

    engine = EngineOptions(
        arbitrary_flags=list(given["engine_opt"]),
        env=list(given["engine_env"]),
        insecure_registry=list(given["engine_insecure_registry"]),
        labels=list(given["engine_label"]),
        storage_driver=given["engine_storage_driver"],
        registry_mirror=list(given["engine_registry_mirror"]),
        install_url=given["engine_install_url"],
    )
    swarm = SwarmOptions(
        address=given["swarm_addr"],
        host=given["swarm_host"],
        image=given["swarm_image"],
        strategy=given["swarm_strategy"],
        arbitrary_flags=list(given["swarm_opt"]),
        arbitrary_join_flags=list(given["swarm_join_opt"]),
        is_experimental=given["swarm_experimental"],
    )
    if given["docker_context"]:
        from pymachine import contexts  # noqa: PLC0415

        contexts.refuse_existing(name)
    request = CreateRequest(
        name=name,
        driver_name=given["driver"],
        options=given["options"],
        engine=engine,
        swarm=swarm,
        sans=tuple(given["tls_san"]),
        context=name if given["docker_context"] else "",
        template=not given["no_template"],
    )
    app.manager.create(request)
    if app.structured:
        app.show("", [{**machines.summary(app, name), "Timings": app.manager.timings}])
        return
    if given["timings"]:
        for part, seconds in app.manager.timings.items():
            app.say(f"{part}\t{seconds:.2f}")
    app.say(
        "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, "
        f"run: {app.program} env {name}"
    )
