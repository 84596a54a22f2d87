"""Make and remove the docker context of a machine."""

from __future__ import annotations

from pymachine.errors import UsageError
from pymachine.hosts import context_updates, local_socket
from pymachine.hosts.host import Hosts
from pymachine.hosts.locking import locked


def make_context(hosts: Hosts, name: str, context: str, *, socket: bool = False) -> str:
    """Make the docker context `context` for the running machine `name`. It replaces an earlier context.

    With `socket` it uses the machine's local socket, which is made if it is missing, and not TLS.
    """
    from pymachine.docker import contexts  # noqa: PLC0415

    with locked(hosts, name) as host:
        endpoint, record = host.endpoint(), host.record
        is_another = record.context != context
        if is_another:
            instead = f"Choose another name: pymachine context create --name OTHER {name}"
            contexts.refuse_taken(context, instead=instead)
        if socket:
            local_socket.check(host.driver)
            local_socket.turn_on(host)
        if is_another:
            context_updates.drop(host)
        # The record names the context before it exists, so that `rm` removes it even if we are killed in between.
        record.context, record.context_socket = context, socket
        host.save()
        try:
            context_updates.put(host, context, endpoint)
        except BaseException:
            if is_another:
                record.context, record.context_socket = "", False
                host.save()
            raise
    return context


def remove_context(hosts: Hosts, name: str) -> str:
    """Remove the docker context of machine `name`, and return the context's name."""
    from pymachine.docker import contexts  # noqa: PLC0415

    with locked(hosts, name) as host:
        context = host.record.context
        if not context:
            raise UsageError(f'machine "{name}" has no docker context')
        host.record.context, host.record.context_socket = "", False
        contexts.remove(context, machine=name)
        host.save()
    return context
