"""Freeze a copy of a running machine as a named template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pymachine.docker import api
from pymachine.driver.abilities import Freezable
from pymachine.driver.contract import Json, State
from pymachine.errors import HostNotRunningError, UnsupportedError
from pymachine.hosts import identity, named_templates
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.named_templates import SEED
from pymachine.hosts.template_contents import Contents
from pymachine.hosts.templates import NamedTemplate
from pymachine.hosts.timeouts import boot_timeout
from pymachine.system import files

_ENGINE_SECONDS = 60.0


def freeze(hosts: Hosts, machine: str, name: str, *, recipe: Mapping[str, Json] | None = None) -> NamedTemplate:
    """Freeze a copy of the running `machine` as the template `name`, which replaces an older one of that name.

    The machine goes on. `recipe` says how to make the template again. Raises `DriverError`, and the older template is
    unchanged then.
    """
    named_templates.check_new_name(name)
    # The template's lock comes first, so that no process holds the machine's while it waits.
    with named_templates.making(hosts.store.root, name, hosts.reporter), locked(hosts, machine) as host:
        driver = host.driver
        if not isinstance(driver, Freezable):
            raise driver.unsupported("named templates")
        if host.state() is not State.RUNNING:
            raise HostNotRunningError(name=machine)
        _refuse_swarm(host)
        seed = identity.shared(host.identity(driver.endpoint()))
        request = replace(host.boot_request(), seed=seed, timeout=boot_timeout())
        contents = _contents(host).to_json()

        def fill(folder: Path) -> Mapping[str, Json]:
            facts = driver.freeze(folder, request)
            files.atomic_write(folder / SEED, seed)
            source = {"recipe": recipe} if recipe else {"machine": machine}
            shape = facts["Shape"]
            return {"shape": shape, "facts": facts, "record": _portable(host), "contents": contents, "from": source}

        return named_templates.make(hosts.store.root, name, fill)


def _refuse_swarm(host: Host) -> None:
    """Raise `UnsupportedError` for a member of a swarm: all machines from the template would have its keys."""
    endpoint, certificates = host.driver.endpoint(), host.client_files()
    found = api.get(endpoint, certificates=certificates, path="/info", timeout=_ENGINE_SECONDS).get("Swarm")
    if isinstance(found, dict) and found.get("LocalNodeState") not in (None, "", "inactive"):
        raise UnsupportedError(
            f"{host.name} is a member of a swarm, whose keys all machines from the template would have",
            hint=f"Leave the swarm first: pymachine ssh {host.name} -- docker swarm leave --force",
        )


def _contents(host: Host) -> Contents:
    """Ask the machine's engine what it has. Raises `TlsError` and `EngineError`."""
    endpoint, certificates = host.driver.endpoint(), host.client_files()
    images, containers = (
        api.get_list(endpoint, certificates=certificates, path=path, timeout=_ENGINE_SECONDS)
        for path in ("/images/json", "/containers/json")
    )
    try:
        return Contents.of_engine(images, containers)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise api.EngineError(
            f"the engine of {host.name} lists its images and containers in an unknown form"
        ) from error


def _portable(host: Host) -> Mapping[str, Json]:
    """Return the machine's record without what only it has: its shared folders, docker context, owner and project."""
    kept = replace(host.record, shares=[], context="", expires=None, owner="", project=None, client_proxies=[])
    return kept.to_json()
