"""What has to arrive: as `papyra-otel facts --json` tells it from the log, independently of any way to a collector."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e.harness import run

SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17}
STAYS_HERE = "papyra.message.payload"


def told(root: Path) -> list[dict[str, Any]]:
    """Return the objects that the command prints of the log at *root*."""
    command = [str(Path(sys.executable).parent / "papyra-otel"), "facts", "--json", "--log", f"file:{root}"]
    done = run(command, cwd=root.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected(root: Path) -> dict[str, dict[str, Any]]:
    """Return by uid how each fact that leaves the machine has to arrive."""
    leaving = [fact for fact in told(root) if fact["name"] != "papyra.message.processed"]
    return {fact["uid"]: _as_it_arrives(fact) for fact in leaving}


def _as_it_arrives(fact: dict[str, Any]) -> dict[str, Any]:
    attributes = {key: value for key, value in fact["attributes"].items() if key != STAYS_HERE}
    attributes |= {
        "papyra.system.id": fact["system"],
        "papyra.fact.kind": fact["kind"],
        "log.record.uid": fact["uid"],
        "event_name": fact["name"],
    }
    if "actor" in fact:
        attributes["papyra.actor.address"] = fact["actor"]
    return {
        "name": fact["name"],
        "time": nanoseconds(fact["time"]),
        "severity": (fact["severity"], SEVERITIES[fact["severity"]]),
        "trace": (fact.get("trace_id", ""), fact.get("span_id", "")),
        "scope": "papyra_otel",
        "attributes": {key: as_otlp(value) for key, value in attributes.items()},
        "body": {},
    }


def nanoseconds(time: str) -> int:
    """Return an RFC 3339 time, with up to nine digits of a second, as nanoseconds since 1970."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0"))


def as_otlp(value: Any) -> dict[str, Any]:
    """Return a value of a fact as OTLP's JSON has it: integers are texts there, and differ from floats."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [as_otlp(each) for each in value]} if value else {}}
    return {"kvlistValue": {"values": [{"key": key, "value": as_otlp(each)} for key, each in value.items()]}}
