"""The bad day, which passes once for all tests that look at it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from grafana.scenario.day import Day, bad_day, wait_until


@pytest.fixture(scope="session")
def day(tmp_path_factory) -> Iterator[Day]:
    with bad_day(tmp_path_factory.mktemp("day")) as passed:
        yield passed


@dataclass(frozen=True)
class AtRest:
    """What each process did, by its own count, and since when (seconds) none does anything of note any more."""

    did: dict[str, dict[str, Any]]
    since: float


@pytest.fixture(scope="session")
def at_rest(day: Day) -> AtRest:
    """The processes at the end of the day; the one that was killed is left out."""
    own = {name: process for name, process in day.processes.items() if name != "vanished"}
    for process in own.values():
        process.tell("pause")
        while process.read() != "pause":
            pass  # what it said of its incident
    did = {name: json.loads(process.read()) for name, process in own.items()}
    since = time.time()
    newest = "min(timestamp(papyra_persistence_queue_size))"
    wait_until("all are scraped at rest", lambda: float(day.prometheus.query(newest)[0]["value"][1]) > since)
    return AtRest(did, since)
