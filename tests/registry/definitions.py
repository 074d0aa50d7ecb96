"""The registry of all names on the wire, read from the package's YAML files and resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

FOLDER = files("papyra_otel") / "registry"
FILES = ("attributes.yaml", "events.yaml", "metrics.yaml", "spans.yaml")

# What OpenTelemetry defines and we use; the registry gets these from the dependency that its manifest names.
BORROWED = {
    "error.type": "string",
    "exception.message": "string",
    "exception.stacktrace": "string",
    "exception.type": "string",
    "host.name": "string",
    "log.record.uid": "string",
    "messaging.destination.name": "string",
    "messaging.operation.name": "string",
    "messaging.operation.type": "string",
    "messaging.system": "string",
    "process.pid": "int",
}


@dataclass(frozen=True)
class Attribute:
    """One attribute. *members* are the values of an enum, None of any other type."""

    key: str
    type: str
    brief: str = ""
    note: str = ""
    members: Sequence[str] | None = None
    member_briefs: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Used:
    """An attribute where it is used. *condition* is "" unless *level* is ``conditionally_required``."""

    key: str
    level: str
    condition: str = ""


@dataclass(frozen=True)
class Event:
    name: str
    kind: str
    severities: Sequence[str]
    brief: str
    note: str
    attributes: Mapping[str, Used]


@dataclass(frozen=True)
class Metric:
    name: str
    instrument: str
    unit: str
    brief: str
    note: str
    attributes: Mapping[str, Used]


@dataclass(frozen=True)
class Span:
    name: str
    kind: str
    named: str
    brief: str
    note: str
    attributes: Mapping[str, Used]


@dataclass(frozen=True)
class Registry:
    attributes: Mapping[str, Attribute]
    events: Mapping[str, Event]
    metrics: Mapping[str, Metric]
    spans: Mapping[str, Span]


def documents() -> dict[str, Any]:
    """Return what each file says, as it stands."""
    return {name: yaml.safe_load((FOLDER / name).read_text("utf-8")) for name in FILES}


@cache
def registry() -> Registry:
    """Return the resolved registry. Raises KeyError for a reference to nothing, AssertionError for what is twice."""
    said: dict[str, list[Any]] = {}
    for document in documents().values():
        for section, entries in document.items():
            if section != "file_format":
                said.setdefault(section, []).extend(entries)
    attributes = _by([_attribute(each) for each in said["attributes"]], "key")
    attributes |= {key: Attribute(key, type_) for key, type_ in BORROWED.items()}
    groups = {each["id"]: each["attributes"] for each in said["attribute_groups"]}
    assert len(groups) == len(said["attribute_groups"])
    events = [
        Event(
            name=each["name"],
            kind=each["annotations"]["papyra"]["kind"],
            severities=each["annotations"]["papyra"]["severity"],
            brief=each["brief"],
            note=each.get("note", ""),
            attributes=_used(each["attributes"], groups, attributes),
        )
        for each in said["events"]
    ]
    metrics = [
        Metric(
            name=each["name"],
            instrument=each["instrument"],
            unit=each["unit"],
            brief=each["brief"],
            note=each.get("note", ""),
            attributes=_used(each["attributes"], groups, attributes),
        )
        for each in said["metrics"]
    ]
    spans = [
        Span(
            name=each["type"],
            kind=each["kind"],
            named=each["name"]["note"],
            brief=each["brief"],
            note=each.get("note", ""),
            attributes=_used(each["attributes"], groups, attributes),
        )
        for each in said["spans"]
    ]
    return Registry(attributes, _by(events, "name"), _by(metrics, "name"), _by(spans, "name"))


def _by(entries: list[Any], member: str) -> dict[str, Any]:
    found = {getattr(entry, member): entry for entry in entries}
    assert len(found) == len(entries), "a name is defined twice"
    return found


def _attribute(said: Mapping[str, Any]) -> Attribute:
    enum = said["type"]["members"] if isinstance(said["type"], dict) else None
    return Attribute(
        key=said["key"],
        type="string" if enum is not None else said["type"],
        brief=said["brief"],
        note=said.get("note", ""),
        members=None if enum is None else [each["value"] for each in enum],
        member_briefs=None if enum is None else {each["value"]: each.get("brief", "") for each in enum},
    )


def _used(
    references: list[Mapping[str, Any]],
    groups: Mapping[str, list[Mapping[str, Any]]],
    attributes: Mapping[str, Attribute],
) -> dict[str, Used]:
    used: dict[str, Used] = {}
    for each in references:
        for reference in groups[each["ref_group"]] if "ref_group" in each else [each]:
            level = reference.get("requirement_level", "recommended")
            condition = "" if isinstance(level, str) else level["conditionally_required"]
            key = attributes[reference["ref"]].key
            assert key not in used, f"{key} is there twice"
            used[key] = Used(key, level if isinstance(level, str) else "conditionally_required", condition)
    return used
