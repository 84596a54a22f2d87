"""Merge pymachine's settings into the host's daemon.json, and remove them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from pymachine.driver.contract import Json
from pymachine.provision.errors import HostConfigError

Settings = Mapping[str, Json]


@dataclass(frozen=True)
class Applied:
    """The changes of a merge: the values added, and the host's own values that they replaced."""

    added: dict[str, Json] = field(default_factory=dict)
    replaced: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON for the state file on the host."""
        return {"added": self.added, "replaced": self.replaced}

    @classmethod
    def from_json(cls, data: Json) -> Applied:
        """Read it from the state file on the host; without one, nothing was applied."""
        known = data if isinstance(data, dict) else {}
        return cls(dict(known.get("added") or {}), dict(known.get("replaced") or {}))


def read(text: str, *, path: str) -> dict[str, Json]:
    """Parse a host's daemon.json; an empty file has no settings. Raises `HostConfigError`."""
    if not text.strip():
        return {}
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise HostConfigError(
            f"{path} on the host is not JSON: {error}",
            hint="The engine cannot read it either. Repair the file, or move it away, and try again.",
        ) from error
    if not isinstance(settings, dict):
        raise HostConfigError(f"{path} on the host is not a JSON object", hint="Repair the file, or move it away.")
    return settings


def write(settings: Settings) -> str:
    """Return `settings` as the text of a file, in the order of their keys."""
    return json.dumps(settings, indent=2) + "\n"


def merge(found: Settings, ours: Settings) -> tuple[dict[str, Json], Applied]:
    """Merge `ours` into `found`. Lists and objects are joined, and other values are replaced by ours."""
    merged, applied = deepcopy(dict(found)), Applied()
    for key, value in deepcopy(dict(ours)).items():
        new, gone = _difference(key, found.get(key), value) if key in found else (value, None)
        if new is None:
            continue
        own = found.get(key)
        if isinstance(value, list) and isinstance(own, list):
            merged[key] = [entry for entry in own if entry not in (gone or [])] + new
        elif isinstance(value, dict) and isinstance(own, dict):
            merged[key] = {**own, **new}
        else:
            merged[key] = value
        applied.added[key] = deepcopy(new)
        if gone is not None:
            applied.replaced[key] = gone
    return merged, applied


def _difference(key: str, own: Json, value: Json) -> tuple[Json, Json]:
    """Return what our `value` adds to the host's `own`, and what it replaces in `own`. None means nothing."""
    if own == value:
        return None, None
    if isinstance(value, list) and isinstance(own, list):
        new = [entry for entry in value if entry not in own]
        gone = [entry for entry in own if entry not in value and _same_label(key, entry, value)]
        return new or None, gone or None
    if isinstance(value, dict) and isinstance(own, dict):
        changed = {name: entry for name, entry in value.items() if name not in own or own[name] != entry}
        return changed or None, {name: own[name] for name in changed if name in own} or None
    return value, own


def strip(current: Settings, applied: Applied) -> dict[str, Json]:
    """Return `current` without the `applied` changes. Values that were changed since then stay.

    Any part of the changes may be missing, since the host may have failed while they were written.
    """
    rest = dict(current)
    for key, value in applied.added.items():
        if key not in current:
            continue
        own, before = current[key], applied.replaced.get(key)
        # A value of another type was replaced, not joined.
        joined = type(own) is type(value) and (key not in applied.replaced or type(before) is type(value))
        if joined and isinstance(value, list):
            kept = [entry for entry in own if entry not in value]
            rest[key] = kept + [entry for entry in before or [] if entry not in kept]
        elif joined and isinstance(value, dict):
            rest[key] = {name: entry for name, entry in own.items() if name not in value or value[name] != entry}
            rest[key] = (before or {}) | rest[key]
        elif own == value:
            rest[key] = before
        else:
            continue
        # A list or object that was empty before is removed too: it means the same as a missing one.
        if rest[key] in (None, [], {}):
            del rest[key]
    return rest


def same(left: Settings, right: Settings) -> bool:
    """Whether two files have the same settings, in any order."""
    return not changed_keys(left, right)


def changed_keys(left: Settings, right: Settings) -> set[str]:
    """Return the keys whose values differ, ignoring the order of lists."""
    keys = {*left, *right}
    return {key for key in keys if (key in left) != (key in right) or _sorted(left[key]) != _sorted(right[key])}


def _sorted(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {key: _sorted(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(entry) for entry in value), key=lambda entry: json.dumps(entry, sort_keys=True))
    return value


def _same_label(key: str, entry: Json, value: list[Json]) -> bool:
    """Whether `entry` is a label whose name has another value in `value`. The engine refuses to have both."""
    if key != "labels" or not isinstance(entry, str):
        return False
    return entry.partition("=")[0] in {str(other).partition("=")[0] for other in value}
