"""`create`: create machines. The options of the chosen driver are added to the command's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from pymachine.cli import create_options, goflags, machine_args, share_options
from pymachine.cli.context import App, current
from pymachine.cli.errors import HelpfulUsageError, RunError
from pymachine.driver.contract import Json
from pymachine.errors import PymachineError, UsageError
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.create_from_template import create
from pymachine.hosts.host import Hosts
from pymachine.hosts.shares import ShareRequest
from pymachine.store.origins import Origin
from pymachine.system.progress import Reporter


@click.command("create", cls=create_options.DriverOptionsCommand)
@create_options.flags
@share_options.for_new_machines
@goflags.flag("--swarm", is_flag=True, help="Not supported: Docker removed Swarm standalone")
@goflags.flag("--swarm-image", default="swarm:latest", env="MACHINE_SWARM_IMAGE", help="Accepted without effect")
@goflags.flag("--swarm-master", is_flag=True, help="Not supported: Docker removed Swarm standalone")
@goflags.flag("--swarm-discovery", help="Accepted without effect")
@goflags.flag("--swarm-strategy", default="spread", help="Accepted without effect")
@goflags.flag("--swarm-opt", multiple=True, help="Accepted without effect")
@goflags.flag("--swarm-join-opt", multiple=True, help="Accepted without effect")
@goflags.flag("--swarm-host", default="tcp://0.0.0.0:3376", help="Accepted without effect")
@goflags.flag("--swarm-addr", help="Accepted without effect")
@goflags.flag("--swarm-experimental", is_flag=True, help="Accepted without effect")
@goflags.flag("--docker-context", is_flag=True, help="Also create a docker context for the machine")
@goflags.flag("--timings", is_flag=True, help="Print how long each step took, in seconds")
@goflags.arguments("names", "NAME...")
@click.pass_context
def command(ctx: click.Context, /, names: tuple[str, ...], **given: Any) -> None:
    """Create one or more machines."""
    app = current(ctx)
    if not names:
        raise HelpfulUsageError("Error: No machine name specified", usage=ctx.get_help())
    if len(names) > 1 and app.as_docker_machine:
        raise UsageError(f"Invalid command line. Found extra arguments [{' '.join(names[1:])}]")
    _refuse_swarm(given)
    shares, origin = share_options.request(ctx, app.store_root, command="create")
    origins = create_options.origins(ctx, share=origin)
    requests = {name: _request(name, given, shares, origins) for name in names}
    create_options.prune_expired(app)
    errors: Sequence[PymachineError] = ()
    if len(requests) == 1:
        results = [_create(app, app.hosts, requests[names[0]])]
    else:
        from pymachine.cli import parallel  # noqa: PLC0415 (not needed for one machine)

        def create_labelled(name: str, reporter: Reporter) -> Json:
            return _create(app, app.hosts_with(reporter, labelled=True), requests[name])

        results, errors = parallel.run_in_processes(
            list(requests), create_labelled, reporter=app.reporter, success="Created"
        )
    _print_results(app, results, timings=given["timings"])
    machine_args.raise_all(errors)


def _create(app: App, hosts: Hosts, request: CreateRequest) -> Json:
    """Create one machine, and return its ``--json`` object."""
    create(hosts, request)
    return {**machine_args.summary(app, request.name), "Timings": hosts.timings}


def _print_results(app: App, results: list[Json], *, timings: bool) -> None:
    if app.structured:
        app.show("", results)
        return
    for result in results:
        name = result["Name"]
        if timings:
            for part, seconds in result["Timings"].items():
                app.say(f"{part}\t{seconds:.2f}")
        app.say(
            "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, "
            f"run: {app.program} env {name}"
        )


def _refuse_swarm(given: dict[str, Any]) -> None:
    discovery = given["swarm_discovery"]
    if discovery and "://" not in discovery:
        raise RunError(f"Error parsing swarm discovery: Swarm Discovery URL was in the wrong format: {discovery}")
    for name in ("swarm", "swarm_master"):
        if given[name]:
            flag = name.replace("_", "-")
            raise RunError(
                f"--{flag} is not supported: Docker removed Swarm standalone, whose image no longer exists",
                hint="Create machines without it, then use swarm mode: docker swarm init, docker swarm join.",
            )


def _request(name: str, given: dict[str, Any], shares: ShareRequest, origins: Mapping[str, Origin]) -> CreateRequest:
    from pymachine.store.record import SwarmOptions  # noqa: PLC0415 (the help does not need it)

    swarm = SwarmOptions(
        address=given["swarm_addr"],
        discovery=given["swarm_discovery"],
        host=given["swarm_host"],
        image=given["swarm_image"],
        strategy=given["swarm_strategy"],
        arbitrary_flags=list(given["swarm_opt"]),
        arbitrary_join_flags=list(given["swarm_join_opt"]),
        is_experimental=given["swarm_experimental"],
    )
    if given["docker_context"]:
        from pymachine.docker import contexts  # noqa: PLC0415

        instead = f"Leave out --docker-context, then: pymachine context create --name OTHER {name}"
        contexts.refuse_taken(name, instead=instead)
    return create_options.request(
        name,
        given,
        swarm=swarm,
        context=name if given["docker_context"] else "",
        shares=shares,
        origins=origins,
    )
