"""Merging our settings into a host's daemon.json, and taking them out again without loss."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pymachine.provision import merge
from pymachine.provision.errors import HostConfigError
from pymachine.provision.merge import Applied

OURS = {"labels": ["provider=generic"], "tlsverify": True, "tlscacert": "/etc/docker/ca.pem", "storage-driver": "vfs"}

# On a busy host data is generated slowly.
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
scalars = st.one_of(st.booleans(), st.integers(), st.text(max_size=5))
words = st.text("abc=", min_size=1, max_size=3)
values = st.one_of(
    scalars,
    st.lists(words, min_size=1, max_size=3, unique=True),
    st.dictionaries(words, words, min_size=1, max_size=3),
)
contents = st.dictionaries(st.sampled_from(["labels", "dns", "log-opts", "tls", "debug"]), values, max_size=5)


@quick
@given(contents, contents)
def test_merged_settings_can_be_stripped(found: dict[str, Any], ours: dict[str, Any]) -> None:
    merged, applied = merge.merge(found, ours)
    applied = Applied.from_json(json.loads(json.dumps(applied.to_json())))
    assert merge.same(merge.strip(merged, applied), found)


@quick
@given(contents, contents)
def test_merging_again_changes_nothing(found: dict[str, Any], ours: dict[str, Any]) -> None:
    merged, applied = merge.merge(found, ours)
    again, _ = merge.merge(merge.strip(merged, applied), ours)
    assert merge.same(again, merged)


@quick
@given(contents, contents)
def test_all_our_settings_are_in_the_merged_file(found: dict[str, Any], ours: dict[str, Any]) -> None:
    merged, _ = merge.merge(found, ours)
    for key, value in ours.items():
        if isinstance(value, list) and isinstance(found.get(key), list):
            assert set(value) <= set(merged[key])
        elif isinstance(value, dict) and isinstance(found.get(key), dict):
            assert value.items() <= merged[key].items()
        else:
            assert merged[key] == value


def test_the_hosts_own_settings_are_kept() -> None:
    found = {"labels": ["rack=7"], "log-opts": {"max-size": "10m"}, "bip": "10.9.0.1/24"}
    merged, _ = merge.merge(found, {**OURS, "log-opts": {"max-file": "3"}})
    assert merged["labels"] == ["rack=7", "provider=generic"]
    assert merged["log-opts"] == {"max-size": "10m", "max-file": "3"}
    assert merged["bip"] == "10.9.0.1/24"


def test_the_hosts_value_of_our_label_is_replaced_and_restored() -> None:
    """The engine does not start with two values of one label."""
    found = {"labels": ["provider=hand", "rack=7"]}
    merged, applied = merge.merge(found, OURS)
    assert merged["labels"] == ["rack=7", "provider=generic"]
    assert merge.same(merge.strip(merged, applied), found)


def test_values_changed_on_the_host_since_are_kept() -> None:
    merged, applied = merge.merge({}, OURS)
    merged["storage-driver"] = "overlay2"
    merged["labels"].append("rack=8")
    assert merge.strip(merged, applied) == {"labels": ["rack=8"], "storage-driver": "overlay2"}


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "{'a': 1}"])
def test_a_file_that_is_not_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(HostConfigError, match=r"/etc/docker/daemon\.json on the host is not"):
        merge.read(text, path="/etc/docker/daemon.json")


@pytest.mark.parametrize("text", ["", "  \n", "{}"])
def test_an_empty_file_has_no_settings(text: str) -> None:
    assert merge.read(text, path="x") == {}


def test_the_order_of_lists_does_not_count_as_a_change() -> None:
    assert merge.changed_keys({"dns": ["a", "b"], "bip": "x"}, {"dns": ["b", "a"], "bip": "y"}) == {"bip"}
