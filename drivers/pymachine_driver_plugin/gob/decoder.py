"""Decode a stream of gob, such as Go writes it, to Python's values.

The stream is that of another program, which may be broken or hostile: each malformed stream raises `GobError`, and the
memory and the time that a value takes are limited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymachine_driver_plugin.gob.definitions import COMPLEX, FIRST_ID, LAST_ID, WIRE_TYPE, from_definition, type_with_id
from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.message import MessageReader
from pymachine_driver_plugin.gob.numbers import to_float
from pymachine_driver_plugin.gob.types import (
    MAP_KEYS,
    Array,
    Basic,
    Interface,
    Map,
    Reference,
    Slice,
    Struct,
    Type,
    zero,
)

LARGEST_VALUE = 16 * 1024 * 1024
"""In bytes, with all messages of a value and the definitions before it."""
MOST_VALUES = 100_000
"""How many elements and fields a value may have, inner ones included. A byte may take hundreds in memory."""
DEEPEST = 64
"""How many levels of slices, arrays, maps, structs and interfaces a value may have."""
MOST_TYPES = 1000
"""How many types a stream may define."""
LARGEST_DEFINITIONS = 1024 * 1024
"""In bytes, for all types of a stream."""


class Decoder:
    """Decodes the values of one stream. `read` returns as many bytes as its argument says, or raises EOFError."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._types: dict[int, Type] = {}
        self._definition_bytes = 0
        self._bytes = 0
        self._values = 0
        self._depth = 0

    def decode(self) -> Any:
        """Return the next value.

        Structs are dicts with all fields. Fields that were not sent have their zero value; structs and arrays are then
        None, since Go leaves them out only if they are nil pointers. Interfaces are `Interface` or None. Strings that
        are not UTF-8 have surrogates ("surrogateescape").

        Raises `GobError` if the stream is malformed or exceeds a limit, and EOFError at its end. The stream cannot be
        read further after either.
        """
        self._bytes = self._values = self._depth = 0
        message = MessageReader(self._read_limited)
        value = self._standalone(message, self._read_type(message))
        message.end()
        return value

    def _read_limited(self, count: int) -> bytes:
        self._bytes += count
        if self._bytes > LARGEST_VALUE:
            raise GobError(f"a value of {self._bytes} bytes, but the limit is {LARGEST_VALUE}")
        return self._read(count)

    def _read_type(self, message: MessageReader) -> Type:
        """Return the type of the value that follows, and keep the definitions before it. Each ends its message."""
        while (number := message.int()) < 0:
            self._define(-number, message)
            message.next()
        return self._resolved(type_with_id(number))

    def _define(self, number: int, message: MessageReader) -> None:
        if not FIRST_ID <= number <= LAST_ID:
            raise GobError(f"a type is defined with the id {number}, which is not from {FIRST_ID} to {LAST_ID}")
        if number in self._types:
            raise GobError(f"the type {number} is defined twice")
        size = message.left
        definition = self._value(message, WIRE_TYPE)
        self._definition_bytes += size - message.left
        if len(self._types) == MOST_TYPES or self._definition_bytes > LARGEST_DEFINITIONS:
            raise GobError(f"more than {MOST_TYPES} types, or {LARGEST_DEFINITIONS} bytes, are defined")
        self._types[number] = from_definition(definition)

    def _resolved(self, type_: Type) -> Type:
        if not isinstance(type_, Reference):
            return type_
        if type_.id == COMPLEX:
            raise GobError("complex numbers are not supported")
        if type_.id not in self._types:
            raise GobError(f"type {type_.id} is neither defined nor one of the supported basic types")
        return self._types[type_.id]

    def _standalone(self, message: MessageReader, type_: Type) -> Any:
        """Return a value that is in no other, except in an interface. All but structs have a zero in front."""
        if not isinstance(type_, Struct) and (zero := message.uint()) != 0:
            raise GobError(f"a value of the type {type_} must begin with a zero, but begins with {zero}")
        return self._value(message, type_)

    def _value(self, message: MessageReader, type_: Type) -> Any:
        self._count(1)
        if isinstance(type_, Basic) and type_ is not Basic.INTERFACE:
            return _basic(message, type_)
        self._depth += 1
        if self._depth > DEEPEST:
            raise GobError(f"a value has more than {DEEPEST} levels")
        value = self._composite(message, self._resolved(type_))
        self._depth -= 1
        return value

    def _composite(self, message: MessageReader, type_: Type) -> Any:
        match type_:
            case Slice():
                return self._list(message, message.uint(), type_.element)
            case Array():
                return self._array(message, type_)
            case Map():
                return self._map(message, type_)
            case Struct():
                return self._struct(message, type_)
            case _:
                return self._interface(message)

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise GobError(f"a value has {self._values} or more elements and fields, but the limit is {MOST_VALUES}")

    def _list(self, message: MessageReader, length: int, element: Type) -> list[Any]:
        # Not compared with the rest of the message, since elements that are interfaces may begin further messages. Each
        # element takes at least a byte, so a length that is too large ends in an error too.
        if length > MOST_VALUES:
            raise GobError(f"a slice or array has {length} elements, but the limit is {MOST_VALUES}")
        return [self._value(message, element) for _ in range(length)]

    def _array(self, message: MessageReader, array: Array) -> list[Any]:
        if (length := message.uint()) != array.length:
            raise GobError(f"an array of the length {array.length} is sent with {length} elements")
        return self._list(message, length, array.element)

    def _map(self, message: MessageReader, type_: Map) -> dict[Any, Any]:
        key = self._resolved(type_.key)
        if key not in MAP_KEYS:
            raise GobError(f"a map has keys of the unsupported type {str(key)[:100]!r}")
        length = message.uint()
        if length > MOST_VALUES:
            raise GobError(f"a map has {length} keys, but the limit is {MOST_VALUES}")
        found = {}
        for _ in range(length):
            name = self._value(message, key)
            found[name] = self._value(message, type_.element)
        return found

    def _struct(self, message: MessageReader, struct: Struct) -> dict[str, Any]:
        self._count(len(struct.fields))
        found = {name: zero(self._resolved(type_)) for name, type_ in struct.fields}
        number = -1
        while difference := message.uint():
            number += difference
            if number >= len(struct.fields):
                raise GobError(f"the struct {str(struct)[:100]!r} has no field with the number {number}")
            name, type_ = struct.fields[number]
            found[name] = self._value(message, type_)
        return found

    def _interface(self, message: MessageReader) -> Interface | None:
        name = _string(message)
        if not name:
            return None
        type_ = self._read_type(message)
        inner = MessageReader(message.take)
        value = self._standalone(inner, type_)
        inner.end()
        return Interface(name, value)


def _basic(message: MessageReader, type_: Basic) -> Any:
    match type_:
        case Basic.BOOL:
            return _bool(message.uint())
        case Basic.INT:
            return message.int()
        case Basic.UINT:
            return message.uint()
        case Basic.FLOAT:
            return to_float(message.uint())
        case Basic.BYTES:
            return bytes(message.take(message.uint()))
        case _:
            return _string(message)


def _bool(number: int) -> bool:
    if number > 1:
        raise GobError(f"a bool is sent as {number}, and not as 0 or 1")
    return number == 1


def _string(message: MessageReader) -> str:
    return str(message.take(message.uint()), "utf-8", "surrogateescape")
