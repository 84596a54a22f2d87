"""Requests for machines that are like others: clones, and machines from a named template."""

from __future__ import annotations

from dataclasses import replace

from pymachine.hosts.create import CreateRequest
from pymachine.hosts.origins import SHARE
from pymachine.hosts.shares import ShareRequest
from pymachine.store.record import Machine


def request_like(record: Machine, name: str, shares: ShareRequest | None) -> CreateRequest:
    """Return the request for a machine with the options in `record`; with `shares` instead of its folders if given."""
    origins = dict(record.origins)
    if shares is not None:
        origins.pop(SHARE, None)
    else:
        shares = ShareRequest(shares=tuple(record.shares), taken_over=True)
    return CreateRequest(
        name=name,
        driver_name=record.driver_name,
        options={},
        engine=replace(record.engine),
        swarm=replace(record.swarm),
        sans=tuple(record.auth.server_cert_sans),
        shares=shares,
        share_events=record.share_events,
        origins=origins,
        socket=record.socket,
        ipv6_ports=record.ipv6_ports,
        proxies=record.proxies,
        container_proxy=record.container_proxy,
        ca_certificates=tuple(record.ca_certificates),
    )
