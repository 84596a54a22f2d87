"""Values of gob and their types, and a Go program that encodes and decodes them."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

from hypothesis import strategies as st

from pymachine_driver_plugin.gob.decoder import Decoder
from pymachine_driver_plugin.gob.encoder import Encoder
from pymachine_driver_plugin.gob.types import (
    BOOL,
    BYTES,
    FLOAT,
    INT,
    INTERFACE,
    STRING,
    UINT,
    Array,
    Basic,
    Interface,
    Map,
    Slice,
    Struct,
    Type,
    zero,
)
from support import processes

SOURCE = Path(__file__).parent / "go_gob"


class Typed(NamedTuple):
    """A value and its type."""

    value: Any
    type: Type


_FLAG = (("Name", STRING), ("Usage", STRING), ("EnvVar", STRING))
STRING_FLAG = Struct("StringFlag", (*_FLAG, ("Value", STRING)))
STRING_SLICE_FLAG = Struct("StringSliceFlag", (*_FLAG, ("Value", Slice(STRING))))
INT_FLAG = Struct("IntFlag", (*_FLAG, ("Value", INT)))
BOOL_FLAG = Struct("BoolFlag", _FLAG)
RPC_FLAGS = Struct("RPCFlags", (("Values", Map(STRING, INTERFACE)),))
BOX = Struct(
    "Box",
    (
        *(("One", INTERFACE), ("Many", Slice(INTERFACE))),
        *(("Table", Map(STRING, INTERFACE)), ("Pair", Array(2, INTERFACE))),
    ),
)
REQUEST = Struct("Request", (("ServiceMethod", STRING), ("Seq", UINT)))
RESPONSE = Struct("Response", (("ServiceMethod", STRING), ("Seq", UINT), ("Error", STRING)))
EMPTY = Struct("")
# The names under which the Go program has registered types, by whether they contain interfaces.
LEAVES: dict[str, Type] = {
    "bool": BOOL,
    "int": INT,
    "int64": INT,
    "uint": UINT,
    "float64": FLOAT,
    "string": STRING,
    "[]uint8": BYTES,
    "[]string": Slice(STRING),
    "[]int": Slice(INT),
    "[]float64": Slice(FLOAT),
    "map[int][]string": Map(INT, Slice(STRING)),
    "[2]bool": Array(2, BOOL),
    "struct {}": EMPTY,
    "*mcnflag.StringFlag": STRING_FLAG,
    "*mcnflag.StringSliceFlag": STRING_SLICE_FLAG,
    "*mcnflag.IntFlag": INT_FLAG,
    "*mcnflag.BoolFlag": BOOL_FLAG,
}
NESTED: dict[str, Type] = {
    "[]interface {}": Slice(INTERFACE),
    "map[string]interface {}": Map(STRING, INTERFACE),
    "main.Box": BOX,
    "*rpcdriver.RPCFlags": RPC_FLAGS,
}
CONCRETE = LEAVES | NESTED


def in_interface(name: str, value: Any) -> Interface:
    """Return a value in an interface, under a name that the Go program knows."""
    return Interface(name, value, CONCRETE[name])


def flag(name: str, /, **fields: Any) -> Interface:
    """Return a flag of a driver. Fields that are left out are empty."""
    kind = f"*mcnflag.{name}"
    of_kind = CONCRETE[kind]
    assert isinstance(of_kind, Struct)
    empty = {one: zero(type_) for one, type_ in of_kind.fields}
    return in_interface(kind, empty | fields)


def rpc_flags(**values: Interface | None) -> Interface:
    """Return the argument of SetConfigFromFlags."""
    return in_interface("*rpcdriver.RPCFlags", {"Values": values})


def box(one: Interface | None = None, *many: Interface | None, **table: Interface | None) -> Interface:
    """Return a box, whose values may be boxes."""
    return in_interface("main.Box", {"One": one, "Many": list(many), "Table": table, "Pair": [None, one]})


def response(number: int, error: str = "") -> Typed:
    """Return what net/rpc sends before an answer."""
    return Typed({"ServiceMethod": "RPCServerDriver.Call", "Seq": number, "Error": error}, RESPONSE)


FLAGS = [
    flag("StringFlag", Name="url", Usage="URL of host", EnvVar="URL", Value="tcp://1.2.3.4"),
    flag("StringSliceFlag", Name="tag", Value=["a", "", "ü"]),
    flag("IntFlag", Name="cpus", Value=-1),
    flag("BoolFlag", Name="swarm", EnvVar="SWARM"),
    flag("StringFlag"),
    flag("StringSliceFlag"),
    flag("IntFlag"),
    flag("BoolFlag"),
]
_NUMBERS = [0, 1, -1, 63, 64, -64, -65, 127, 128, 255, 256, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]
_TEXTS = ["", "a", "größe", "\0", "𝄞" * 50, "x" * 127, "x" * 128, "\udcff\udc80"]
SAMPLES: dict[str, list[Typed]] = {
    "numbers": [*(Typed(one, INT) for one in _NUMBERS), *(Typed(one % 2**64, UINT) for one in _NUMBERS)],
    "floats": [Typed(one, FLOAT) for one in (0.0, -0.0, 17.0, -1.5, 1e300, 5e-324, float("inf"), float("-inf"))],
    "texts": [*(Typed(one, STRING) for one in _TEXTS), Typed(b"", BYTES), Typed(bytes(range(256)), BYTES)],
    "lists": [Typed([], Slice(STRING)), Typed(_TEXTS, Slice(STRING)), Typed([[1, 2], [0, 0]], Slice(Array(2, INT)))],
    "maps": [Typed({}, Map(STRING, INT)), Typed({"a": {1: True, 2: False}}, Map(STRING, Map(INT, BOOL)))],
    "empty structs": [Typed({}, EMPTY), Typed([{}, {}, {}], Slice(EMPTY))],
    "answers": [
        *(response(0), Typed(1, INT), response(1), Typed("none", STRING), response(2), Typed(FLAGS, Slice(INTERFACE))),
        *(response(3, "no such method"), Typed({}, EMPTY), response(4), Typed(b'{"MachineName":"x"}', BYTES)),
        *(response(5), Typed(FLAGS, Slice(INTERFACE))),
    ],
    "flags": [
        Typed(
            rpc_flags(
                cpus=Interface.of_int(-3),
                swarm=Interface.of_bool(False),
                url=Interface.of_string("tcp://ü"),
                none=None,
                tags=Interface.of_strings(["a", "b"]),
                more=Interface.of_strings([]),
                nested=rpc_flags(deeper=rpc_flags(tags=Interface.of_strings(["c"]))),
            ),
            INTERFACE,
        ),
        Typed(rpc_flags(), INTERFACE),
        Typed(None, INTERFACE),
    ],
    "boxes": [
        Typed(
            box(
                box(
                    in_interface("[]float64", [0.0, 1.5]),
                    flag("IntFlag", Value=1),
                    a=in_interface("[2]bool", [True] * 2),
                ),
                box(box(box(in_interface("map[int][]string", {1: ["x"]})))),
                in_interface("[]interface {}", [None, flag("StringFlag", Name="a"), Interface.of_strings(["b"])]),
                b=in_interface("map[string]interface {}", {"c": flag("StringSliceFlag", Value=["d"])}),
            ),
            INTERFACE,
        ),
        Typed(box(box()), INTERFACE),
    ],
}


def reader(data: bytes) -> Callable[[int], bytes]:
    """Return the `read` of a decoder for a stream that ends after `data`."""
    stream = io.BytesIO(data)

    def read(count: int) -> bytes:
        taken = stream.read(count)
        if len(taken) < count:
            raise EOFError
        return taken

    return read


def encoded(values: Iterable[Typed]) -> bytes:
    """Return one stream with all values, from pymachine's encoder."""
    encoder = Encoder()
    return b"".join(encoder.encode(*one) for one in values)


def decoded(data: bytes) -> list[Any]:
    """Return all values of a stream, from pymachine's decoder."""
    decoder = Decoder(reader(data))
    values = []
    while True:
        try:
            values.append(decoder.decode())
        except EOFError:
            return values


def shown(value: Any, type_: Type) -> Any:
    """Return a value in the kinds of JSON, without loss, as the function `shown` of the Go program does."""
    match type_:
        case Basic():
            return _shown_basic(value, type_)
        case Slice() | Array():
            return [shown(one, type_.element) for one in value]
        case Map():
            pairs = [[shown(key, type_.key), shown(one, type_.element)] for key, one in value.items()]
            return sorted(pairs, key=lambda pair: json.dumps(pair[0]))
    assert isinstance(type_, Struct)
    return {name: shown(value[name], of_field) for name, of_field in type_.fields}


def _shown_basic(value: Any, type_: Basic) -> Any:
    match type_:
        case Basic.INTERFACE:
            return value and {"Name": value.name, "Value": shown(value.value, CONCRETE[value.name])}
        case Basic.FLOAT:
            return int.from_bytes(struct.pack(">d", value), "big")
        case Basic.STRING:
            return _base64(value.encode(errors="surrogateescape"))
        case Basic.BYTES:
            return _base64(value)
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def described(type_: Type) -> dict[str, Any]:
    """Return a type as requests to the Go program have it."""
    match type_:
        case Slice():
            return {"Kind": "slice", "Element": described(type_.element)}
        case Array():
            return {"Kind": "array", "Length": type_.length, "Element": described(type_.element)}
        case Map():
            return {"Kind": "map", "Key": described(type_.key), "Element": described(type_.element)}
        case Struct():
            fields = [{"Name": name, "Type": described(of_field)} for name, of_field in type_.fields]
            return {"Kind": "struct", "Fields": fields}
    assert isinstance(type_, Basic)
    return {"Kind": type_.name.lower()}


def named(name: str) -> dict[str, Any]:
    """Return a type that the Go program has under this name, for a request."""
    return {"Kind": "named", "Name": name}


class GoError(Exception):
    """Go cannot encode or decode something; the text is Go's."""


class GoGob:
    """A running Go program that encodes and decodes gob. Each call is a stream of its own."""

    def __init__(self, process: Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        self._requests, self._answers = process.stdin, process.stdout

    def encode(self, types: Sequence[dict[str, Any]], values: Sequence[Any]) -> bytes:
        """Return a stream with values, which are as `shown` returns them."""
        return base64.b64decode(self._call(Types=types, Values=values)["Gob"])

    def decode(self, types: Sequence[dict[str, Any]], data: bytes) -> list[Any]:
        """Return the values of a stream, as `shown` returns them."""
        return list(self._call(Types=types, Gob=_base64(data))["Values"])

    def _call(self, **request: Any) -> dict[str, Any]:
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        answer: dict[str, Any] = json.loads(self._answers.readline())
        if answer["Error"]:
            raise GoError(answer["Error"])
        return answer


@contextmanager
def running(program: Path) -> Iterator[GoGob]:
    """Start the Go program; `program` is built from the folder `go_gob`."""
    with processes.started([program], stdin=PIPE, stdout=PIPE) as process:
        yield GoGob(process)


FLOATS = st.floats().map(lambda number: number + 0.0)
"""Without the negative zero: Go does not send it in structs, so it becomes positive there."""
_TEXT = st.text(max_size=20) | st.binary(max_size=5).map(lambda data: data.decode(errors="surrogateescape"))
_BASIC: dict[Basic, st.SearchStrategy[Any]] = {
    BOOL: st.booleans(),
    INT: st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300),
    UINT: st.integers(0, 2**64 - 1) | st.integers(0, 300),
    FLOAT: FLOATS,
    BYTES: st.binary(max_size=20),
    STRING: _TEXT,
}
_KEYS = st.sampled_from([BOOL, INT, UINT, STRING])


def _composites(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    names = st.lists(st.sampled_from(["A", "Bc", "Größe", "Äpfel", "X1", "Z_"]), unique=True, max_size=4)
    fields = names.flatmap(lambda chosen: st.tuples(*(st.tuples(st.just(name), inner) for name in chosen)))
    return (
        st.builds(Slice, inner)
        | st.builds(Array, st.integers(0, 3), inner)
        | st.builds(Map, _KEYS, inner)
        | st.builds(Struct, st.sampled_from(["", "Point"]), fields)
    )


TYPES = st.recursive(st.sampled_from(list(Basic)), _composites, max_leaves=8)


@cache
def values(type_: Type, depth: int = 2) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a type. `depth` limits how deeply interfaces are nested."""
    match type_:
        case Basic.INTERFACE:
            names = LEAVES if depth == 0 else CONCRETE
            return st.none() | st.sampled_from(list(names)).flatmap(lambda name: _interfaces(name, depth - 1))
        case Basic():
            return _BASIC[type_]
        case Slice():
            return st.lists(values(type_.element, depth), max_size=4)
        case Array():
            return st.lists(values(type_.element, depth), min_size=type_.length, max_size=type_.length)
        case Map():
            return st.dictionaries(values(type_.key), values(type_.element, depth), max_size=3)
    assert isinstance(type_, Struct)
    return st.fixed_dictionaries({name: values(of_field, depth) for name, of_field in type_.fields})


def _interfaces(name: str, depth: int) -> st.SearchStrategy[Interface]:
    return values(CONCRETE[name], depth).map(lambda value: in_interface(name, value))


TYPED = TYPES.flatmap(lambda type_: values(type_).map(lambda value: Typed(value, type_)))
STREAMS = st.lists(TYPED, min_size=1, max_size=4)
"""Several values of one stream. Types that occur again are defined only once."""
