"""Encode Python's values as a stream of gob that Go reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymachine_driver_plugin.gob.definitions import WIRE_TYPE, id_of, inner_types, to_definition
from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.numbers import encode_uint, from_float, from_int
from pymachine_driver_plugin.gob.types import MAP_KEYS, Array, Basic, Interface, Map, Slice, Struct, Type, zero

_FIRST_ID = 65
"""The first id for types of the stream, as in Go's own streams."""


class Encoder:
    """Encodes the values of one stream. Each type is defined before the first value that needs it."""

    def __init__(self) -> None:
        self._ids: dict[Type, int] = {}

    def encode(self, value: Any, type_: Type) -> bytes:
        """Return the messages of a value: the definitions of new types, and the value.

        Structs are mappings. Their fields may be missing or None, which is Go's zero value or nil pointer. Raises
        `GobError` if the value does not fit the type. The stream is then as before.
        """
        stream = bytearray()
        message = _Message(stream, ids := dict(self._ids))
        message.write_type(type_)
        message.write_value(value, type_)
        message.flush()
        self._ids = ids
        return bytes(stream)


class _Message:
    """The message of a value, which is appended to `target` behind its length.

    `target` is the stream or, for the value of an interface, the data of the message around it. A type that is defined
    inside a value ends the message, so one value may take several.
    """

    def __init__(self, target: bytearray, ids: dict[Type, int]) -> None:
        self._target = target
        self._ids = ids
        self._data = bytearray()

    def flush(self) -> None:
        """End the message."""
        self._target += encode_uint(len(self._data)) + self._data
        self._data.clear()

    def write_type(self, type_: Type) -> None:
        """Write the id of a type, and before it the definitions of all types in it that the stream lacks."""
        self._define(type_)
        self._write_int(id_of(type_, self._ids))

    def write_value(self, value: Any, type_: Type) -> None:
        """Write a value that is in no other, except in an interface. All but structs have a zero in front."""
        if not isinstance(type_, Struct):
            self._write_uint(0)
        self._write(value, type_)

    def _define(self, type_: Type) -> None:
        if isinstance(type_, Basic) or type_ in self._ids:
            return
        for inner in inner_types(type_):
            self._define(inner)
        number = _FIRST_ID + len(self._ids)
        self._write_int(-number)
        self._write(to_definition(type_, number, self._ids), WIRE_TYPE)
        self.flush()
        self._ids[type_] = number

    def _write(self, value: Any, type_: Type) -> None:
        match type_:
            case Basic.INTERFACE:
                self._write_interface(value)
            case Basic():
                self._write_basic(value, type_)
            case Slice():
                self._write_list(_checked(value, type_, list, tuple), type_.element)
            case Array():
                self._write_array(value, type_)
            case Map():
                self._write_map(value, type_)
            case Struct():
                self._write_struct(value, type_)
            case _:
                raise GobError(f"{type_} has no encoding: only the decoder has references to types")

    def _write_basic(self, value: Any, type_: Basic) -> None:
        match type_:
            case Basic.BOOL:
                self._write_uint(int(_checked(value, type_, bool)))
            case Basic.INT:
                self._write_int(_in_range(value, type_, -(2**63), 2**63 - 1))
            case Basic.UINT:
                self._write_uint(_in_range(value, type_, 0, 2**64 - 1))
            case Basic.FLOAT:
                self._write_uint(from_float(_checked(value, type_, float)))
            case Basic.BYTES:
                self._write_bytes(_checked(value, type_, bytes, bytearray))
            case _:
                self._write_string(_checked(value, type_, str))

    def _write_uint(self, number: int) -> None:
        self._data += encode_uint(number)

    def _write_int(self, number: int) -> None:
        self._data += encode_uint(from_int(number))

    def _write_bytes(self, data: bytes) -> None:
        self._write_uint(len(data))
        self._data += data

    def _write_string(self, text: str) -> None:
        try:
            data = text.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            raise GobError(f"a string has a character that UTF-8 lacks: {error}") from error
        self._write_bytes(data)

    def _write_list(self, values: Sequence[Any], element: Type) -> None:
        self._write_uint(len(values))
        for value in values:
            self._write(value, element)

    def _write_array(self, value: Any, array: Array) -> None:
        values = _checked(value, array, list, tuple)
        if len(values) != array.length:
            raise GobError(f"cannot encode {len(values)} values as {array}: the length must be {array.length}")
        self._write_list(values, array.element)

    def _write_map(self, value: Any, type_: Map) -> None:
        if type_.key not in MAP_KEYS:
            raise GobError(f"cannot encode {type_}: its keys are of the unsupported type {type_.key}")
        items = _checked(value, type_, dict)
        self._write_uint(len(items))
        for key, element in items.items():
            self._write(key, type_.key)
            self._write(element, type_.element)

    def _write_struct(self, value: Any, struct: Struct) -> None:
        fields = _checked(value, struct, dict)
        if unknown := fields.keys() - {name for name, _ in struct.fields}:
            raise GobError(f"the struct {struct} has no field {sorted(unknown)[0]!r}")
        last = -1
        for number, (name, type_) in enumerate(struct.fields):
            if _is_sent(fields.get(name), type_):
                self._write_uint(number - last)
                self._write(fields[name], type_)
                last = number
        self._write_uint(0)

    def _write_interface(self, value: Any) -> None:
        if value is None:
            self._write_uint(0)
            return
        _checked(value, Basic.INTERFACE, Interface)
        if not value.name or value.type is None:
            raise GobError(
                f"an interface needs the name and the type of its value, but has {value.name!r}, {value.type}"
            )
        self._write_string(value.name)
        self.write_type(value.type)
        inner = _Message(self._data, self._ids)
        inner.write_value(value.value, value.type)
        inner.flush()


def _is_sent(value: Any, type_: Type) -> bool:
    """Return whether Go sends a struct's field with this value. It leaves out nil pointers and most zero values."""
    if value is None or isinstance(type_, Array | Map | Struct):
        return value is not None
    return value not in (zero(type_), ())


def _checked(value: Any, type_: Type, *classes: type) -> Any:
    # Not isinstance alone: a bool is an int for Python, but not for Go.
    if not isinstance(value, classes) or (isinstance(value, bool) and bool not in classes):
        raise GobError(f"cannot encode a value of Python's type {type(value).__name__} as {type_}")
    return value


def _in_range(value: Any, type_: Type, lowest: int, highest: int) -> int:
    number = int(_checked(value, type_, int))
    if not lowest <= number <= highest:
        raise GobError(f"cannot encode {number} as {type_}: it has more than 64 bits, or a sign")
    return number
