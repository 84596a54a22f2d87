"""Keep a machine's docker context up to date: write it, let it follow a rename, and remove it with the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pymachine.driver.contract import Endpoint
from pymachine.errors import PymachineError
from pymachine.hosts.host import Host


def put(host: Host, context: str, endpoint: Endpoint, *, former_names: Sequence[str] = ()) -> None:
    """Write the docker context `context` for the machine at `endpoint`.

    `former_names` are names that the machine had when its context was made.
    """
    from pymachine.docker import contexts  # noqa: PLC0415

    if host.record.context_socket:
        from pymachine.ssh.local_socket import place  # noqa: PLC0415 (few machines need it)

        endpoint = dataclasses.replace(endpoint, docker_url=place.url(host.directory))
    contexts.put(context, endpoint, machine=host.name, certificates=host.client_files(), formerly=former_names)


def refresh(host: Host, *, former_names: Sequence[str] = ()) -> None:
    """Write the machine's docker context again, if it has one. A failure is only a warning."""
    context = host.record.context
    if not context:
        return
    try:
        put(host, context, host.driver.endpoint(), former_names=former_names)
    except PymachineError as error:
        host.reporter.warn(f'The docker context "{context}" could not be updated: {error.brief}')


def drop(host: Host, *, former_name: str = "") -> None:
    """Remove the machine's docker context, if it has one. A failure is only a warning.

    `former_name` is the name that the machine had when the context was made, if it has another one now.
    """
    context = host.record.context
    if not context:
        return
    from pymachine.docker import contexts  # noqa: PLC0415

    try:
        contexts.remove(context, machine=former_name or host.name)
    except PymachineError as error:
        host.reporter.warn(f'The docker context "{context}" could not be removed: {error.brief}')


def follow_rename(host: Host, former_name: str) -> None:
    """After a rename, rename a docker context that had the machine's former name, if the new name is free.

    Can be called again after it was killed.
    """
    if host.record.context == former_name and _is_free(host):
        drop(host, former_name=former_name)
        host.record.context = host.name
        host.save()
    refresh(host, former_names=(former_name,))


def _is_free(host: Host) -> bool:
    """Return whether no docker context has the machine's name; warn if one has."""
    from pymachine.docker import contexts  # noqa: PLC0415

    try:
        contexts.refuse_taken(host.name, instead="")
    except PymachineError as error:
        host.reporter.warn(f"The docker context keeps its name: {error.brief}")
        return False
    return True
