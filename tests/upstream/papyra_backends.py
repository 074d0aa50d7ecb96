"""A pytest plugin for papyra's own tests: wherever they make one of papyra's backends, they get ours.

Loaded with ``-p papyra_backends``. ``PAPYRA_OTEL_UPSTREAM_LOG`` says over which log: ``memory``, ``file``, or the
URL of a Redis server. The tests themselves are papyra's, unchanged.
"""

from __future__ import annotations

import os
import sys
import uuid
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import pytest
from papyra import persistence
from papyra.persistence import json as json_module
from papyra.persistence.backends import memory, redis, rotating

from papyra_otel import PapyraPersistence

KIND = os.environ["PAPYRA_OTEL_UPSTREAM_LOG"]
RUN = uuid.uuid4().hex
made: list[Any] = []

_LAYOUT = "writes or reads the lines of papyra's own file format"
_INSIDE = "puts records into a list inside papyra's backend in memory"
_SERVER = "writes or reads the entries of papyra's own Redis streams"
_NAMES = "asserts papyra's name of its own backend"
_FAILS = "fails with papyra's own backend, too"
LEFT_OUT: dict[str, tuple[str, ...]] = {
    _LAYOUT: (
        "tests/cli/test_doctor.py::test_doctor_fail_on_anomaly",
        "tests/cli/test_doctor.py::test_doctor_recover_*",
        "tests/cli/test_persistence.py::test_persistence_scan_reports_anomalies",
        "tests/cli/test_persistence.py::test_persistence_recover_repairs",
        "tests/cli/test_persistence.py::test_persistence_recover_quarantine",
        "tests/cli/test_persistence.py::test_persistence_startup_check_fail",
        "tests/cli/test_persistence.py::test_persistence_startup_check_recover",
        "tests/cli/test_persistence.py::test_persistence_inspect_counts_from_json",
        "tests/cli/test_persistence.py::test_persistence_inspect_limit_capped_indicator",
        "tests/persistence/test_compaction_json.py::*",
        "tests/persistence/test_compaction_rotating.py::*",
        "tests/persistence/test_recovery_json.py::test_json_recover_*",
        "tests/persistence/test_recovery_rotating.py::test_rotating_recover_*",
        "tests/persistence/test_*_file_persistence.py::test_invalid_json_lines_are_ignored*",
        "tests/persistence/test_*_file_persistence.py::test_extra_fields_do_not_break_deserialization*",
        "tests/persistence/test_rotating_file_persistence.py::test_rotation_creates_rotated_files*",
        "tests/system/test_startup_persistence.py::*",
    ),
    _INSIDE: (
        "tests/cli/test_inspect.py::test_inspect_*_basic",
        "tests/cli/test_inspect.py::test_inspect_*_filter_*",
        "tests/cli/test_inspect.py::test_inspect_events_limit",
        "tests/cli/test_inspect.py::test_inspect_summary",
    ),
    _NAMES: ("tests/cli/test_persistence.py::test_persistence_inspect_shows_backend_and_retention",),
    _FAILS: ("tests/test_watch.py::test_watch_notified_on_stop*",),
}
if KIND != "memory":
    LEFT_OUT[_NAMES] += ("tests/persistence/test_compaction_memory.py::*",)
if KIND not in {"memory", "file"}:
    LEFT_OUT[_SERVER] = (
        "tests/persistence/redis/test_metrics_redis.py::test_redis_scan_anomaly_metrics*",
        "tests/persistence/redis/test_redis_streams_consumer_groups.py::*",
        "tests/persistence/redis/test_redis_streams_persistence.py::test_redis_scan_detects_corrupted_payload*",
        "tests/persistence/redis/test_redis_streams_persistence.py::test_redis_recover_*",
        "tests/persistence/redis/test_redis_streams_persistence.py::test_redis_compaction_trims_*",
    )
    LEFT_OUT["asks for the bytes before a server can have them"] = (
        "tests/persistence/metrics/test_metrics_json.py::test_json_write_metrics*",
        "tests/persistence/metrics/test_metrics_rotating.py::test_rotating_write_metrics*",
    )


def backend(place: str | None, retention: Any) -> Any:
    """Return our backend for what papyra keeps at *place*; None is a place of its own."""
    where = sha256(f"{RUN}/{place or uuid.uuid4().hex}".encode()).hexdigest()[:16]
    system = None
    if KIND == "memory":
        url = f"memory:{where}"
    elif KIND == "file":
        url = f"file:{place}.facts" if place else f"file:{os.environ['PAPYRA_OTEL_UPSTREAM_ROOT']}/{where}"
    else:
        url, system = KIND, where
    ours = PapyraPersistence(url, retention_policy=retention, system=system, forward="off")
    made.append(ours)
    return ours


def in_memory(retention_policy: Any = None) -> Any:
    return backend(None, retention_policy)


def in_file(path: Any, retention_policy: Any = None, **_: Any) -> Any:
    return backend(str(path), retention_policy)


def in_redis(config: Any, retention_policy: Any = None) -> Any:
    return backend(config.prefix, retention_policy)


for holder, name, stand_in in (
    (memory, "InMemoryPersistence", in_memory),
    (persistence, "InMemoryPersistence", in_memory),
    (json_module, "JsonFilePersistence", in_file),
    (persistence, "JsonFilePersistence", in_file),
    (rotating, "RotatingFilePersistence", in_file),
    (redis, "RedisStreamsPersistence", in_redis),
):
    setattr(holder, name, stand_in)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what asserts another backend's inside; say how many and why, and that no line of the list is idle."""
    kept: list[pytest.Item] = []
    dropped: dict[str, list[pytest.Item]] = {}
    idle = {pattern for patterns in LEFT_OUT.values() for pattern in patterns}
    for item in items:
        found = [
            (reason, pattern)
            for reason, patterns in LEFT_OUT.items()
            for pattern in patterns
            if fnmatchcase(item.nodeid, pattern)
        ]
        idle -= {pattern for _, pattern in found}
        if found:
            dropped.setdefault(found[0][0], []).append(item)
        else:
            kept.append(item)
    for reason, left in dropped.items():
        config.hook.pytest_deselected(items=left)
        sys.stderr.write(f"{len(left)} left out: {reason}\n")
    if idle and not config.getoption("keyword"):
        raise pytest.UsageError(f"papyra has no such tests any more: {', '.join(sorted(idle))}")
    items[:] = kept


@pytest.fixture(autouse=True)
def _close():
    yield
    while made:
        made.pop()._give_back()
