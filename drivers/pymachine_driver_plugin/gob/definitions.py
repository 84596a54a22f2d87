"""Definitions of types, as they are sent in a stream: values of a struct that both sides know, Go's ``wireType``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.types import INT, STRING, Array, Basic, Map, Reference, Slice, Struct, Type

COMPLEX = 7
"""The id of the only predefined type for values that is not supported."""
FIRST_ID = 64
"""The first id that a definition may have. Lower ones are predefined or reserved."""
LAST_ID = 2**31 - 1

_BASIC: dict[int, Basic] = {one.value: one for one in Basic}
_COMMON = Struct("CommonType", (("Name", STRING), ("Id", INT)))
_ARRAY = Struct("ArrayType", (("CommonType", _COMMON), ("Elem", INT), ("Len", INT)))
_SLICE = Struct("SliceType", (("CommonType", _COMMON), ("Elem", INT)))
_FIELD = Struct("FieldType", (("Name", STRING), ("Id", INT)))
_STRUCT = Struct("StructType", (("CommonType", _COMMON), ("Field", Slice(_FIELD))))
_MAP = Struct("MapType", (("CommonType", _COMMON), ("Key", INT), ("Elem", INT)))
_ENCODER = Struct("gobEncoderType", (("CommonType", _COMMON),))
# The interfaces of Go by which a type brings its own encoding.
_OWN_ENCODINGS = {
    "GobEncoderT": "GobEncoder",
    "BinaryMarshalerT": "encoding.BinaryMarshaler",
    "TextMarshalerT": "encoding.TextMarshaler",
}
WIRE_TYPE = Struct(
    "wireType",
    (
        *(("ArrayT", _ARRAY), ("SliceT", _SLICE), ("StructT", _STRUCT), ("MapT", _MAP)),
        *((name, _ENCODER) for name in _OWN_ENCODINGS),
    ),
)
"""The type of a definition. Exactly one of its fields is set."""


def inner_types(type_: Type) -> tuple[Type, ...]:
    """Return the types in a composite type."""
    match type_:
        case Slice() | Array():
            return (type_.element,)
        case Map():
            return (type_.key, type_.element)
        case Struct():
            return tuple(of_field for _, of_field in type_.fields)
        case _:
            return ()


def to_definition(type_: Type, number: int, ids: Mapping[Type, int]) -> dict[str, Any]:
    """Return the definition of a composite type under the id `number`. `ids` has the composite types in it."""
    common = {"Name": type_.name if isinstance(type_, Struct) else "", "Id": number}
    inner = [id_of(one, ids) for one in inner_types(type_)]
    match type_:
        case Slice():
            return {"SliceT": {"CommonType": common, "Elem": inner[0]}}
        case Array():
            return {"ArrayT": {"CommonType": common, "Elem": inner[0], "Len": type_.length}}
        case Map():
            return {"MapT": {"CommonType": common, "Key": inner[0], "Elem": inner[1]}}
        case Struct():
            fields = [{"Name": name, "Id": of_field} for (name, _), of_field in zip(type_.fields, inner, strict=True)]
            return {"StructT": {"CommonType": common, "Field": fields}}
    raise GobError(f"{type_} cannot be defined: only slices, arrays, maps and structs can")


def id_of(type_: Type, ids: Mapping[Type, int]) -> int:
    """Return the id of a type: that of a basic type, or the one in `ids`."""
    return type_.value if isinstance(type_, Basic) else ids[type_]


def from_definition(definition: Mapping[str, Any]) -> Type:
    """Return the type of a definition. The composite types in it are references.

    Raises `GobError` for kinds that are not supported.
    """
    kinds = [kind for kind, content in definition.items() if content is not None]
    if len(kinds) != 1:
        raise GobError(f"a type must be of one kind, but its definition has: {', '.join(kinds) or 'none'}")
    kind, content = kinds[0], definition[kinds[0]]
    name = str(content["CommonType"]["Name"]) if content["CommonType"] else ""
    match kind:
        case "SliceT":
            return Slice(type_with_id(content["Elem"]))
        case "ArrayT":
            return Array(_length(content["Len"]), type_with_id(content["Elem"]))
        case "MapT":
            return Map(type_with_id(content["Key"]), type_with_id(content["Elem"]))
        case "StructT":
            return Struct(name, _fields(name, content["Field"]))
    shown = repr(name[:100]) if name else "a type without a name"
    raise GobError(f"types with an encoding of their own ({_OWN_ENCODINGS[kind]}) are not supported: {shown}")


def type_with_id(number: int) -> Type:
    """Return the type with this id: a basic one, or a reference."""
    return _BASIC.get(number) or Reference(number)


def _length(length: int) -> int:
    if length < 0:
        raise GobError(f"an array cannot have the length {length}")
    return length


def _fields(struct: str, fields: list[dict[str, Any]]) -> tuple[tuple[str, Type], ...]:
    if len({one["Name"] for one in fields}) < len(fields):
        raise GobError(f"the struct {struct[:100]!r} has two fields of the same name")
    return tuple((one["Name"], type_with_id(one["Id"])) for one in fields)
