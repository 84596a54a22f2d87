"""A row of `ls` as a value for Go templates: docker-machine's struct, with its names and types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Any, ClassVar

from pymachine.cli.listing import Row
from pymachine.driver.contract import State as MachineState
from pymachine.gotemplate.types import Duration, Method, Named, Pointer, Strings, Struct
from pymachine.store.record import EngineOptions, SwarmOptions, json_name
from pymachine.system import printable

# Fields whose name in Go differs from their JSON key.
_GO_NAMES = {"Dns": "DNS", "TlsVerify": "TLSVerify"}
# Fields that docker-machine does not have. `{{.}}` does not print them.
_ADDITIONAL = ("Host", "Shares", "Autostart")


class State(Named):
    """A machine's state."""

    type_name = "state.State"
    methods: ClassVar[Mapping[str, Method]] = {
        "String": Method(lambda value: MachineState(value).word if value in set(MachineState) else "")
    }


def item(row: Row, shown: Mapping[str, Any], *, lenient: bool = True) -> Struct:
    """Return the struct for `row`, whose fields as text are `shown`.

    A machine whose record cannot be read has no options. If `lenient`, a template that uses one gets no value, and
    goes on with the other machines.
    """
    swarm = None if row.machine is None else row.machine.swarm
    engine = None if row.machine is None else row.machine.engine
    typed = {
        "State": State(row.state),
        "SwarmOptions": _pointer("*swarm.Options", SwarmOptions, swarm, lenient=lenient),
        "EngineOptions": _pointer("*engine.Options", EngineOptions, engine, lenient=lenient),
        # docker-machine measures whole milliseconds.
        "ResponseTime": Duration(round(row.response_seconds * 1000) * 10**6),
    }
    shares = [] if row.machine is None else row.machine.shares
    everything = {**shown, **typed, "Shares": Strings.of([printable.line(str(share)) for share in shares])}
    return Struct(
        "commands.HostListItem",
        {name: value for name, value in everything.items() if name not in _ADDITIONAL},
        as_json=dict(shown),
        additional={name: everything[name] for name in _ADDITIONAL if name in everything},
    )


def _pointer(type_name: str, kind: type, options: EngineOptions | SwarmOptions | None, *, lenient: bool) -> Pointer:
    names = {field.name: _GO_NAMES.get(json_name(field), json_name(field)) for field in fields_of(kind)}
    target = None
    if options is not None:
        values = {go: _typed(getattr(options, name), name) for name, go in names.items()}
        target = Struct(type_name.removeprefix("*"), values)
    return Pointer(type_name, target, frozenset(names.values()), lenient)


def _typed(value: Any, name: str) -> Any:
    if name == "overcommit":
        return float(value)
    return Strings.of(value) if value is None or isinstance(value, list) else value
