"""What compacting a million facts to the newest hundred thousand takes, beside papyra's JSON backend.

papyra reads and writes line by line through a thread and needs minutes for a million: it is given a fiftieth of that,
in the same proportions, and the cost per record is compared. Its time grows with the records, so that is fair.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from papyra.persistence.backends.retention import RetentionPolicy
from papyra.persistence.json import JsonFilePersistence

from papyra_otel import Fact, FactKind
from papyra_otel.log import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.log.retention import KindRetention, Retention

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

FACTS = 1_000_000
KEPT = 100_000
PAPYRA_FACTS = 20_000
SECOND = 1_000_000_000
BEGIN = 1_795_384_461_215_759_801
MIB = 1 << 20
DETAILS = {
    "papyra.message.type": "shop.PlaceOrder",
    "papyra.message.kind": "ask",
    "papyra.message.duration": 0.00123,
}


def fact(n):
    return Fact(
        kind=FactKind.EVENT,
        name="papyra.message.processed",
        time_unix_nano=BEGIN + n * SECOND,
        system="orders",
        actor="orders/worker-12",
        attributes=DETAILS,
    )


@pytest.fixture
def filled(tmp_path):
    """Return a log of a million facts, closed by the process that wrote it."""
    with FileLog(tmp_path / "facts", options=LogOptions(fsync="never")) as log:
        log.prepare()
        for begin in range(0, FACTS, 10_000):
            log.append([fact(n) for n in range(begin, begin + 10_000)])
    return tmp_path / "facts"


def papyra_seconds(folder):
    """Return how long papyra needs, for each record there was."""
    path = folder / "papyra.ndjson"
    with path.open("w") as file:
        for n in range(PAPYRA_FACTS):
            row = {
                "kind": "event",
                "system_id": "orders",
                "actor_address": "orders://12",
                "event_type": "processed",
                "payload": DETAILS,
                "timestamp": float(n),
            }
            file.write(json.dumps(row) + "\n")

    async def compact():
        backend = JsonFilePersistence(
            path, retention_policy=RetentionPolicy(max_records=PAPYRA_FACTS * KEPT // FACTS)
        )
        begun = time.perf_counter()
        await backend.compact()
        seconds = time.perf_counter() - begun
        await backend.aclose()
        return seconds

    seconds = asyncio.run(compact())
    assert len(path.read_text().splitlines()) == PAPYRA_FACTS * KEPT // FACTS
    return seconds / PAPYRA_FACTS


@pytest.mark.parametrize("limit", ["records", "age"])
def test_compacting_a_million_facts_to_the_newest_tenth(report, filled, limit):
    limits = {
        "records": KindRetention(max_records=KEPT),
        "age": KindRetention(max_age_seconds=KEPT + 0.5),
    }
    retention = Retention({FactKind.EVENT: limits[limit]})
    size_bytes = sum(path.stat().st_size for path in filled.rglob("*.ndjson"))
    theirs = papyra_seconds(filled.parent)
    with FileLog(filled, retention=retention, clock=lambda: BEGIN + FACTS * SECOND) as log:
        begun = time.perf_counter()
        done = log.compact()
        seconds = time.perf_counter() - begun
        assert abs(done.records_removed - (FACTS - KEPT)) <= 1
        begun = time.perf_counter()
        assert log.compact().records_removed == 0
        again = time.perf_counter() - begun
    ratio = theirs * FACTS / seconds
    what = f"compact 1,000,000 facts to 100,000 by {limit}"
    report(f"{what} : papyra 0.3 JSON, per record", ratio, ">= 50 x", ratio >= 50)
    report(what, seconds, "(not a ratio)", True, "s")
    report(f"{what}, the log it was", size_bytes / MIB / seconds, "(for comparison)", True, "MiB/s")
    report(f"{what}, once more", again * 1e3, "(not a ratio)", True, "ms")
    assert ratio > 5
