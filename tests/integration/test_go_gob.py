"""Compare gob with Go itself: Go decodes pymachine's streams, and pymachine decodes Go's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.types import INT, INTERFACE, Interface, Slice
from support import go_programs, gobs
from support.gobs import GoGob, Typed, described, named, shown

STREAMS_OF_GO = Path(__file__).parents[1] / "unit" / "data" / "gob-streams.json"
MANY = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoGob]:
    """The running Go program. One process answers all requests."""
    with gobs.running(go_programs.build(gobs.SOURCE, tmp_path_factory.mktemp("go"))) as program:
        yield program


def types_of(values: list[Typed]) -> list[dict[str, Any]]:
    return [described(one.type) for one in values]


def all_shown(values: list[Typed]) -> list[Any]:
    return [shown(*one) for one in values]


def decoded(values: list[Typed], data: bytes) -> list[Any]:
    """Return what `all_shown` would, of the values that pymachine decodes."""
    return [shown(value, one.type) for value, one in zip(gobs.decoded(data), values, strict=True)]


@pytest.mark.parametrize("name", gobs.SAMPLES)
def test_go_decodes_the_samples(go: GoGob, name: str) -> None:
    values = gobs.SAMPLES[name]
    assert go.decode(types_of(values), gobs.encoded(values)) == all_shown(values)


@pytest.mark.parametrize("name", gobs.SAMPLES)
def test_pymachine_decodes_gos_samples(go: GoGob, name: str) -> None:
    values = gobs.SAMPLES[name]
    assert decoded(values, go.encode(types_of(values), all_shown(values))) == all_shown(values)


@MANY
@given(values=gobs.STREAMS)
def test_go_decodes_any_stream(go: GoGob, values: list[Typed]) -> None:
    assert go.decode(types_of(values), gobs.encoded(values)) == all_shown(values)


@MANY
@given(values=gobs.STREAMS)
def test_pymachine_decodes_any_stream_of_go(go: GoGob, values: list[Typed]) -> None:
    assert decoded(values, go.encode(types_of(values), all_shown(values))) == all_shown(values)


def test_a_reply_with_flags_of_a_narrower_interface_is_decoded(go: GoGob) -> None:
    flags = Typed(gobs.FLAGS, Slice(INTERFACE))
    stream = go.encode([named("[]mcnflag.Flag")] * 2, [shown(*flags)] * 2)
    assert gobs.decoded(stream) == [gobs.FLAGS, gobs.FLAGS]
    assert go.decode([named("[]mcnflag.Flag")] * 2, gobs.encoded([flags, flags])) == [shown(*flags)] * 2


def test_nil_pointers_are_zero_values_or_none(go: GoGob) -> None:
    empty = {"Bool": False, "Int": 0, "Text": "", "Node": None, "Array": None, "Slice": [], "Map": {}, "Last": 0}
    assert gobs.decoded(go.encode([named("main.Pointers")], [{}])) == [empty]
    zeros = {"Array": [0, 0], "Node": {}, "Map": []}
    decoded = gobs.decoded(go.encode([named("main.Pointers")], [zeros]))
    assert decoded == [empty | {"Array": [0, 0], "Node": {"Number": 0, "Next": None, "More": []}}]


def test_what_pointers_point_to_is_decoded(go: GoGob) -> None:
    content = {"Bool": True, "Int": -1, "Text": "YQ==", "Array": [1, 2], "Slice": ["Yg=="], "Map": [["Yw==", 3]]}
    (decoded,) = gobs.decoded(go.encode([named("main.Pointers")], [{**content, "Last": 4}]))
    pointed_to = {"Bool": True, "Int": -1, "Text": "a", "Array": [1, 2], "Slice": ["b"], "Map": {"c": 3}}
    assert decoded == pointed_to | {"Node": None, "Last": 4}


def test_types_that_refer_to_themselves_are_decoded(go: GoGob) -> None:
    tree = {"Number": 1, "Next": {"Number": 2}, "More": [{"Number": 3}, {"More": [{"Number": 4}]}]}
    leaf: dict[str, Any] = {"Number": 0, "Next": None, "More": []}
    expected = {
        "Number": 1,
        "Next": leaf | {"Number": 2},
        "More": [leaf | {"Number": 3}, leaf | {"More": [leaf | {"Number": 4}]}],
    }
    assert gobs.decoded(go.encode([named("*main.Node")], [tree])) == [expected]
    inside = {"Name": "*main.Node", "Value": tree}
    assert gobs.decoded(go.encode([described(INTERFACE)], [inside])) == [Interface("*main.Node", expected)]


def test_numbers_of_all_widths_and_named_types_are_decoded(go: GoGob) -> None:
    lowest = {"A": -(2**7), "B": -(2**15), "C": -(2**31), "D": -(2**63), "K": -1, "L": 12}
    highest = {"E": 2**8 - 1, "F": 2**16 - 1, "G": 2**32 - 1, "H": 2**64 - 1, "I": 2**64 - 1}
    half = 0x3FE0000000000000  # the bits of 0.5
    stream = go.encode([named("main.Widths")], [{**lowest, **highest, "J": half}])
    assert gobs.decoded(stream) == [{**lowest, **highest, "J": 0.5}]


@pytest.mark.parametrize(
    ("type_", "value", "says"),
    [
        (named("time.Time"), {}, r"an encoding of their own \(GobEncoder\) are not supported"),
        (named("complex128"), None, "complex numbers"),
        ({"Kind": "map", "Key": {"Kind": "interface"}, "Element": described(INT)}, [], "keys of the unsupported type"),
    ],
)
def test_unsupported_types_of_go_are_refused(go: GoGob, type_: dict[str, Any], value: Any, says: str) -> None:
    with pytest.raises(GobError, match=says):
        gobs.decoded(go.encode([type_], [value]))


def test_the_streams_of_the_unit_tests_are_those_of_go(go: GoGob) -> None:
    streams = json.loads(STREAMS_OF_GO.read_text(encoding="utf-8"))
    assert streams.keys() == gobs.SAMPLES.keys()
    for name, values in gobs.SAMPLES.items():
        assert go.decode(types_of(values), bytes.fromhex(streams[name])) == all_shown(values)
