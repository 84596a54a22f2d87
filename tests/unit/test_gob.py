"""Gob: documented bytes, recorded streams of Go, and hostile streams. test_go_gob.py compares it with Go itself."""

from __future__ import annotations

import inspect
import json
import math
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pymachine_driver_plugin.gob.decoder import DEEPEST, LARGEST_DEFINITIONS, LARGEST_VALUE, MOST_TYPES, MOST_VALUES
from pymachine_driver_plugin.gob.encoder import Encoder
from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.numbers import encode_uint, from_float, from_int, read_uint, to_float, to_int
from pymachine_driver_plugin.gob.types import (
    BOOL,
    BYTES,
    FLOAT,
    INT,
    INTERFACE,
    STRING,
    UINT,
    Array,
    Interface,
    Map,
    Reference,
    Slice,
    Struct,
    Type,
)
from support import gobs
from support.gobs import Typed, decoded, encoded, reader, shown

STREAMS_OF_GO: dict[str, bytes] = {
    name: bytes.fromhex(text)
    for name, text in json.loads((Path(__file__).parent / "data" / "gob-streams.json").read_text()).items()
}
POINT = Struct("Point", (("X", INT), ("Y", INT)))
POINT_DEFINITION = bytes.fromhex("1fff8103010105506f696e7401ff820001020101580104000101590104000000")
POINT_22_33 = bytes.fromhex("07ff82012c014200")
MANY = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
MEGABYTE = 1024 * 1024


# Parts of a stream, to write malformed ones with. The encoder has no part in them.
def message(*parts: bytes) -> bytes:
    data = b"".join(parts)
    return encode_uint(len(data)) + data


def number(signed: int) -> bytes:
    return encode_uint(from_int(signed))


def text(content: str) -> bytes:
    return message(content.encode())


def a_slice(id_: int, element: int) -> bytes:
    return number(-id_) + b"\2" + b"\2" + number(element) + b"\0\0"


def an_array(id_: int, element: int, length: int) -> bytes:
    return number(-id_) + b"\1" + b"\2" + number(element) + b"\1" + number(length) + b"\0\0"


def a_map(id_: int, key: int, element: int) -> bytes:
    return number(-id_) + b"\4" + b"\2" + number(key) + b"\1" + number(element) + b"\0\0"


def a_struct(id_: int, *fields: tuple[str, int]) -> bytes:
    content = b"".join(b"\1" + text(name) + b"\1" + number(of_field) + b"\0" for name, of_field in fields)
    return number(-id_) + b"\3" + b"\2" + encode_uint(len(fields)) + content + b"\0\0"


def value_of(id_: int, *parts: bytes) -> bytes:
    return message(number(id_), *parts)


def decode(data: bytes) -> Any:
    """Return the only value of a stream, of which nothing is left."""
    (value,) = decoded(data)
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "00"), (7, "07"), (127, "7f"), (128, "ff80"), (256, "fe0100"), (2**64 - 1, "f8" + "ff" * 8)],
)
def test_unsigned_integers_have_the_documented_bytes(value: int, expected: str) -> None:
    assert encode_uint(value).hex() == expected
    assert read_uint(reader(bytes.fromhex(expected))) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "00"), (3, "06"), (-1, "01"), (-65, "ff81"), (-129, "fe0101"), (-(2**63), "f8" + "ff" * 8)],
)
def test_signed_integers_have_the_documented_bytes(value: int, expected: str) -> None:
    assert number(value).hex() == expected
    assert to_int(read_uint(reader(bytes.fromhex(expected)))) == value


@pytest.mark.parametrize(("value", "expected"), [(0.0, "00"), (17.0, "fe3140"), (-0.0, "ff80")])
def test_floats_have_the_documented_bytes(value: float, expected: str) -> None:
    assert encode_uint(from_float(value)).hex() == expected
    read = to_float(read_uint(reader(bytes.fromhex(expected))))
    assert (read, math.copysign(1, read)) == (value, math.copysign(1, value))


def test_the_point_of_gos_documentation() -> None:
    encoder = Encoder()
    assert encoder.encode({"X": 22, "Y": 33}, POINT) == POINT_DEFINITION + POINT_22_33
    assert encoder.encode({"X": 22, "Y": 33}, POINT) == POINT_22_33
    assert decoded(POINT_DEFINITION + POINT_22_33 * 2) == [{"X": 22, "Y": 33}] * 2


def test_a_value_that_is_no_struct_has_a_zero_in_front() -> None:
    assert Encoder().encode(3, INT) == bytes.fromhex("03040006")
    assert decode(bytes.fromhex("03040006")) == 3


def test_a_type_in_an_interface_ends_the_message() -> None:
    value = Interface("[]string", ["a"], Slice(STRING))
    with_its_own_id = bytes.fromhex("ff81 02 01 02 ff82 00 01 0c 00 00")
    expected = value_of(8, b"\0", text("[]string"), with_its_own_id) + value_of(65, message(b"\0\1", text("a")))
    assert Encoder().encode(value, INTERFACE) == expected
    assert decode(expected) == value


def test_a_type_in_an_interface_in_an_interface_ends_the_inner_message() -> None:
    first = message(b"\0\1", text("[]string"), a_slice(66, 6))
    second = message(number(66), message(b"\0\1", text("a")))
    stream = value_of(8, b"\0", text("[]any"), a_slice(65, 8)) + value_of(65, first, second)
    assert decode(stream) == Interface("[]any", [Interface("[]string", ["a"])])


@pytest.mark.parametrize("name", gobs.SAMPLES)
def test_streams_of_go_are_decoded(name: str) -> None:
    values = decoded(STREAMS_OF_GO[name])
    expected = gobs.SAMPLES[name]
    assert [shown(value, one.type) for value, one in zip(values, expected, strict=True)] == [
        shown(*one) for one in expected
    ]


@MANY
@given(gobs.STREAMS)
def test_values_survive_a_round_trip(values: list[Typed]) -> None:
    found = decoded(encoded(values))
    assert [shown(value, one.type) for value, one in zip(found, values, strict=True)] == [shown(*one) for one in values]


def test_fields_that_are_zero_or_missing_are_not_sent() -> None:
    fields = (("A", INT), ("B", BOOL), ("C", STRING), ("D", Slice(INT)), ("E", Map(INT, INT)), ("F", INTERFACE))
    struct = Struct("S", (*fields, ("G", POINT), ("H", BYTES), ("I", FLOAT), ("J", UINT), ("K", Array(1, INT))))
    zeros = {"A": 0, "B": False, "C": "", "D": [], "H": b"", "I": 0.0, "J": 0}
    found = zeros | {"E": {}, "F": None, "G": None, "K": None}
    encoder = Encoder()
    encoder.encode({}, struct)
    nothing = encoder.encode({}, struct)
    assert nothing == encoder.encode(zeros, struct) == encoder.encode(found | {"D": (), "E": None}, struct)
    assert nothing.endswith(b"\0")
    assert len(nothing) == len(message(number(70), b"\0"))
    assert decode(encoded([Typed({}, struct)])) == found


def test_empty_maps_structs_and_arrays_are_sent_as_go_sends_them() -> None:
    struct = Struct("S", (("A", Map(INT, INT)), ("B", Struct("")), ("C", Array(0, INT))))
    content = b"\1\0" + b"\1\0" + b"\1\0" + b"\0"
    assert encoded([Typed({"A": {}, "B": {}, "C": []}, struct)]).endswith(content)


def test_each_type_is_defined_once_in_a_stream() -> None:
    encoder = Encoder()
    values = [{"Values": {"a": Interface.of_strings(["b"])}}, {"Values": {}}]
    first = encoder.encode(values[0], gobs.RPC_FLAGS)
    assert (first.count(b"RPCFlags"), first.count(b"[]string")) == (1, 1)
    second = encoder.encode(values[0], gobs.RPC_FLAGS) + encoder.encode(["c"], Slice(STRING))
    assert b"RPCFlags" not in second
    assert decoded(first + second) == [values[0], values[0], ["c"]]


def test_a_value_that_does_not_fit_leaves_the_stream_as_it_was() -> None:
    encoder = Encoder()
    with pytest.raises(GobError):
        encoder.encode({"X": "no number"}, POINT)
    assert encoder.encode({"X": 22, "Y": 33}, POINT) == POINT_DEFINITION + POINT_22_33


@pytest.mark.parametrize(
    ("value", "type_", "says"),
    [
        (True, INT, "Python's type bool as int"),
        (1, BOOL, "type int as bool"),
        (1, FLOAT, "type int as float"),
        ("1", INT, "type str as int"),
        (None, INT, "type NoneType as int"),
        (b"", STRING, "type bytes as string"),
        ("", BYTES, r"type str as \[\]byte"),
        (2**63, INT, "9223372036854775808 as int"),
        (-(2**63) - 1, INT, "-9223372036854775809 as int"),
        (2**64, UINT, "18446744073709551616 as uint"),
        (-1, UINT, "-1 as uint"),
        ("\ud800", STRING, "that UTF-8 lacks"),
        ("ab", Slice(STRING), r"type str as \[\]string"),
        ([1, "b"], Slice(INT), "type str as int"),
        ([None], Slice(POINT), "type NoneType as Point"),
        ([1], Array(2, INT), r"1 values as \[2\]int: the length must be 2"),
        ([], Map(INT, INT), r"type list as map\[int\]int"),
        ({b"": 1}, Map(BYTES, INT), r"keys are of the unsupported type \[\]byte"),
        ({"Z": 1}, POINT, "the struct Point has no field 'Z'"),
        ({"X": ""}, POINT, "type str as int"),
        ("bare", INTERFACE, "type str as interface"),
        (Interface("int", 1), INTERFACE, "needs the name and the type"),
        (Interface("", 1, INT), INTERFACE, "needs the name and the type"),
        (Interface("int", "1", INT), INTERFACE, "type str as int"),
        ([], Slice(Reference(65)), "type 65 cannot be defined"),
    ],
)
def test_values_that_do_not_fit_their_type_are_refused(value: Any, type_: Type, says: str) -> None:
    with pytest.raises(GobError, match=says):
        Encoder().encode(value, type_)


def test_errors_do_not_show_values_which_may_be_secrets() -> None:
    with pytest.raises(GobError) as caught:
        Encoder().encode("secret", Map(STRING, INT))
    assert "secret" not in str(caught.value)


MALFORMED = {
    "an empty message": (b"\0", "ends too early: 1 bytes should follow, but 0"),
    "a number of 9 bytes": (b"\xf7" + b"\1" * 9, "a number of 9 bytes"),
    "a number of 128 bytes": (message(b"\x80"), "a number of 128 bytes"),
    "a number that is cut off": (message(b"\xfe\1"), "2 bytes should follow, but 1 are left"),
    "a large message": (encode_uint(LARGEST_VALUE + 1), "but the limit is 16777216"),
    "an enormous message": (encode_uint(2**64 - 1), "but the limit is 16777216"),
    "type 0": (value_of(0, b"\0"), "type 0 is neither defined"),
    "an unknown type": (value_of(65, b"\0"), "type 65 is neither defined"),
    "a reserved type": (value_of(16, b"\0"), "type 16 is neither defined"),
    "a complex number": (value_of(7, b"\0\0\0"), "complex numbers are not supported"),
    "no zero": (value_of(2, b"\1\1"), "must begin with a zero, but begins with 1"),
    "bytes after a value": (value_of(2, b"\0\2\0"), "1 more bytes"),
    "bytes after a definition": (message(a_slice(65, 2), b"\0"), "1 more bytes"),
    "a bool of 2": (value_of(1, b"\0\2"), "a bool is sent as 2"),
    "a string that is too long": (value_of(6, b"\0", encode_uint(5), b"abcd"), "5 bytes should follow, but 4 are left"),
    "an enormous string": (value_of(6, b"\0", encode_uint(2**64 - 1)), "bytes should follow, but 0 are left"),
    "enormous bytes": (value_of(5, b"\0", encode_uint(2**63)), "bytes should follow, but 0 are left"),
    "a slice that is too long": (message(a_slice(65, 2)) + value_of(65, b"\0\2\2"), "1 bytes should follow, but 0"),
    "an enormous slice": (message(a_slice(65, 2)) + value_of(65, b"\0", encode_uint(2**64 - 1)), "the limit is 100000"),
    "an enormous map": (message(a_map(65, 2, 2)) + value_of(65, b"\0", encode_uint(2**62)), "the limit is 100000"),
    "an array that is too long": (message(an_array(65, 2, 1)) + value_of(65, b"\0\2\0\0"), "length 1 is sent with 2"),
    "an enormous array": (
        message(an_array(65, 2, 2**62)) + value_of(65, b"\0", encode_uint(2**62)),
        "4611686018427387904 elements, but the limit is 100000",
    ),
    "an array of negative length": (message(an_array(65, 2, -1)), "cannot have the length -1"),
    "a map with bytes as keys": (message(a_map(65, 5, 2)) + value_of(65, b"\0\0"), r"unsupported type '\[\]byte'"),
    "a map with interfaces as keys": (message(a_map(65, 8, 2)) + value_of(65, b"\0\0"), "unsupported type 'interface"),
    "a map with maps as keys": (message(a_map(65, 65, 2)) + value_of(65, b"\0\0"), r"unsupported type 'map\["),
    "a map with structs as keys": (
        POINT_DEFINITION + message(a_map(66, 65, 2)) + value_of(66, b"\0\0"),
        "unsupported type 'Point'",
    ),
    "a field that is not defined": (
        POINT_DEFINITION + value_of(65, b"\3\0\0"),
        "'Point' has no field with the number 2",
    ),
    "an enormous field": (POINT_DEFINITION + value_of(65, encode_uint(2**64 - 1)), "has no field with the number"),
    "a struct without an end": (POINT_DEFINITION + value_of(65, b"\1\2"), "ends too early"),
    "a field of an unknown type": (message(a_struct(65, ("A", 99))) + value_of(65, b"\0"), "type 99 is neither"),
    "a type that is defined twice": (POINT_DEFINITION * 2, "type 65 is defined twice"),
    "a predefined type": (message(a_slice(2, 2)), "id 2, which is not from 64 to 2147483647"),
    "a reserved id": (message(a_slice(63, 2)), "id 63, which is not from"),
    "an enormous id": (message(a_slice(2**31, 2)), "id 2147483648, which is not from"),
    "a type of no kind": (message(number(-65), b"\0"), "must be of one kind, but its definition has: none"),
    "a type of two kinds": (
        message(number(-65), b"\2\0\1\0\0"),
        "must be of one kind, but its definition has: SliceT, StructT",
    ),
    "a type with its own encoding": (message(number(-65), b"\6\0\0"), "encoding.BinaryMarshaler.* are not supported"),
    "a later kind of type": (message(number(-65), b"\x08\0\0"), "'wireType' has no field with the number 7"),
    "fields of one name": (message(a_struct(65, ("A", 2), ("A", 2))), "'' has two fields of the same name"),
    "a definition that is cut off": (message(a_slice(65, 2)[:-1]), "ends too early"),
    "an interface without a type": (value_of(8, b"\0", text("int")), "ends too early"),
    "an interface of an unknown type": (value_of(8, b"\0", text("int"), number(65)), "type 65 is neither"),
    "an interface that is too short": (value_of(8, b"\0", text("int"), number(2), b"\1\0\0"), "ends too early"),
    "an interface that is too long": (value_of(8, b"\0", text("int"), number(2), b"\3\0\0\0"), "1 more bytes"),
    "an interface longer than its message": (value_of(8, b"\0", text("int"), number(2), b"\3\0\0"), "but 2 are left"),
    "a definition that does not end its message": (
        value_of(8, b"\0", text("[]int"), a_slice(65, 2), number(65)) + value_of(65, b"\2\0\0"),
        "more bytes than its value or definition",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_streams_are_refused_with_the_reason(name: str) -> None:
    data, says = MALFORMED[name]
    with pytest.raises(GobError, match=says):
        decoded(data)


def test_strings_that_are_not_utf_8_keep_their_bytes() -> None:
    assert decode(value_of(6, b"\0", message(b"a\xff"))) == "a\udcff"
    names = message(number(-65), b"\3\2\1\1", message(b"\xff"), b"\1", number(2), b"\0\0\0")
    assert decode(names + value_of(65, b"\1\2\0")) == {"\udcff": 1}


def test_limits_are_those_of_a_value_and_not_of_its_stream() -> None:
    half = message(b"\1" * (LARGEST_VALUE * 2 // 3))
    elements = encode_uint(MOST_VALUES * 2 // 3) + bytes(MOST_VALUES * 2 // 3)
    values = [value_of(5, b"\0", half), value_of(65, b"\0", elements)] * 2
    assert len(decoded(message(a_slice(65, 2)) + b"".join(values))) == 4


def nested_slices(levels: int) -> bytes:
    """Return a stream with a slice in a slice in a slice, of a type that refers to itself."""
    return message(a_slice(65, 65)) + value_of(65, b"\0", b"\1" * (levels - 1) + b"\0")


def nested_interfaces(levels: int) -> bytes:
    data = b"\0"
    for _ in range(levels - 1):
        data = text("any") + number(8) + message(b"\0", data)
    return value_of(8, b"\0", data)


def chained_types(levels: int) -> bytes:
    """Return a stream with slices of different types."""
    types = [message(a_slice(65 + at, 66 + at)) for at in range(levels - 1)]
    return b"".join(types) + message(a_slice(64 + levels, 2)) + value_of(65, b"\0", b"\1" * (levels - 1), b"\0")


@pytest.mark.parametrize("nested", [nested_slices, nested_interfaces, chained_types])
def test_deep_values_are_refused(nested: Callable[[int], bytes]) -> None:
    decode(nested(DEEPEST))
    for levels in (DEEPEST + 1, 900):
        with pytest.raises(GobError, match=f"more than {DEEPEST} levels"):
            decode(nested(levels))


def test_the_deepest_values_need_at_most_400_frames() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 400)
    try:
        decode(nested_interfaces(DEEPEST))
    finally:
        sys.setrecursionlimit(limit)


def test_the_number_of_types_is_limited() -> None:
    definitions = [message(a_slice(65 + at, 2)) for at in range(MOST_TYPES + 1)]
    assert decode(b"".join(definitions[:-1]) + value_of(65, b"\0\0")) == []
    with pytest.raises(GobError, match="more than 1000 types"):
        decode(b"".join(definitions))


def test_the_size_of_types_is_limited() -> None:
    name = "x" * (LARGEST_DEFINITIONS // 2)
    definitions = message(a_struct(65, (name, 2))), message(a_struct(66, (name, 2)))
    assert decode(definitions[0] + value_of(65, b"\0")) == {name: 0}
    with pytest.raises(GobError, match="1048576 bytes"):
        decode(b"".join(definitions))


def test_the_size_of_a_value_in_several_messages_is_limited() -> None:
    part = b"\1" * 6 * MEGABYTE
    half = message(part)
    first = message(a_slice(65, 8)) + value_of(
        65, b"\0\3", text("[]uint8"), number(5), message(b"\0", half), text("t"), a_slice(66, 2)
    )
    second = value_of(66, message(b"\0\0"), text("[]uint8"), number(5), message(b"\0", half))
    assert decode(first + second) == [Interface("[]uint8", part), Interface("t", []), Interface("[]uint8", part)]
    with pytest.raises(GobError, match="but the limit is 16777216"):
        decode(first + value_of(66, message(b"\0\0"), text("[]uint8"), number(5), message(b"\0", half + half)))


# Short messages whose values would take gigabytes.
def empty_structs() -> bytes:
    elements = encode_uint(8 * MEGABYTE) + bytes(8 * MEGABYTE)
    return message(a_struct(65)) + message(a_slice(66, 65)) + value_of(66, b"\0", elements)


def structs_with_many_fields() -> bytes:
    fields = [(f"f{at}", 2) for at in range(20_000)]
    elements = encode_uint(MOST_VALUES) + bytes(MOST_VALUES)
    return message(a_struct(65, *fields)) + message(a_slice(66, 65)) + value_of(66, b"\0", elements)


def long_lists() -> bytes:
    numbers = encode_uint(MOST_VALUES) + bytes(MOST_VALUES)
    lists = b"\0" + encode_uint(80) + numbers * 80
    return message(a_slice(65, 66)) + message(a_slice(66, 2)) + value_of(65, lists)


def many_fields() -> bytes:
    """The fields of a definition count too."""
    return message(a_struct(65, *((f"{at:x}", 2) for at in range(MOST_VALUES))))


@pytest.mark.parametrize("amplifier", [empty_structs, structs_with_many_fields, long_lists, many_fields])
def test_short_messages_do_not_take_much_memory(amplifier: Callable[[], bytes]) -> None:
    data = amplifier()
    tracemalloc.start()
    try:
        with pytest.raises(GobError, match="but the limit is 100000"):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * LARGEST_VALUE


def test_the_message_is_not_read_before_its_length_is_checked() -> None:
    counts: list[int] = []

    def read(count: int) -> bytes:
        counts.append(count)
        return b"\xf8" if len(counts) == 1 else b"\x7f" * count

    with pytest.raises(GobError, match="the limit"):
        gobs.Decoder(read).decode()
    assert counts == [1, 8]


@pytest.mark.parametrize("name", STREAMS_OF_GO)
def test_streams_that_end_early_raise_eoferror(name: str) -> None:
    whole = decoded(STREAMS_OF_GO[name])
    data = STREAMS_OF_GO[name]
    for end in range(len(data)):
        found = decoded(data[:end])
        assert len(found) < len(whole)
        assert repr(found) == repr(whole[: len(found)])


@pytest.mark.parametrize("name", STREAMS_OF_GO)
def test_messages_that_end_early_are_refused(name: str) -> None:
    """Cut each message short, with the right length in front."""
    data = STREAMS_OF_GO[name]
    at = 0
    while at < len(data):
        stream = reader(data[at:])
        content = stream(read_uint(stream))
        before, at = data[:at], at + len(message(content))
        for end in range(len(content)):
            with pytest.raises(GobError):
                decoded(before + message(content[:end]) + data[at:])


@MANY
@given(st.binary(max_size=200))
def test_random_bytes_give_values_or_a_gob_error(data: bytes) -> None:
    values_or_error(data)
    values_or_error(message(data))
    values_or_error(POINT_DEFINITION + value_of(65, data))
    values_or_error(value_of(8, b"\0", text("x"), data))
    values_or_error(message(number(-66), data))


EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)


@settings(MANY, max_examples=1000)
@given(st.sampled_from(sorted(STREAMS_OF_GO.values())), EDITS)
def test_changed_streams_of_go_give_values_or_a_gob_error(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for place, removed, inserted in edits:
        at = place % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    values_or_error(data)


@MANY
@given(gobs.STREAMS, EDITS)
def test_changed_streams_give_values_or_a_gob_error(values: list[Typed], edits: list[tuple[int, int, bytes]]) -> None:
    data = encoded(values)
    for place, removed, inserted in edits:
        at = place % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    values_or_error(data)


def values_or_error(data: bytes) -> None:
    """Decode a stream, which may raise only `GobError`. The end of the stream ends the values."""
    try:
        decoded(data)
    except GobError as error:
        assert str(error)
