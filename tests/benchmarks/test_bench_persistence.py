"""``PapyraPersistence`` beside papyra's own JSON backend, given the same records, as ratios within one run."""

from __future__ import annotations

import asyncio
import time

import pytest
from papyra.persistence.json import JsonFilePersistence
from papyra.persistence.models import PersistedDeadLetter, PersistedEvent
from ratios import best_seconds

from papyra_otel import PapyraPersistence

pytestmark = pytest.mark.bench

RECORDS = 200
STORED = 5000


@pytest.fixture
def backends(tmp_path):
    ours = PapyraPersistence(f"file://{tmp_path}/facts", forward="off")
    yield ours, JsonFilePersistence(tmp_path / "papyra.ndjson")
    asyncio.run(ours.aclose())


async def record_events(backend, count):
    for n in range(count):
        payload = {"error": "ValueError: no", "reason": "ValueError: no"}
        await backend.record_event(
            PersistedEvent("orders", f"orders:{n % 50}", "ActorCrashed", payload, time.time())
        )


async def record_letters(backend, count):
    for n in range(count):
        await backend.record_dead_letter(
            PersistedDeadLetter(
                "orders", f"orders:{n % 50}", "Order", {"order": n, "items": [1, 2]}, time.time()
            )
        )


@pytest.mark.parametrize("record", [record_events, record_letters])
def test_records_per_second_beside_papyras_json_backend(backends, report, record):
    ours, papyra = backends
    best = best_seconds(
        {
            "ours": lambda: asyncio.run(record(ours, 10 * RECORDS)),
            "papyra": lambda: asyncio.run(record(papyra, RECORDS)),
        },
        rounds=8,
        clock=time.perf_counter,
    )
    ratio = 10 * best["papyra"] / best["ours"]
    what = record.__name__.removeprefix("record_")
    report(f"{what}/s through PapyraPersistence, file : papyra 0.3 JSON", ratio, "(for comparison)", True)
    report(f"one of them ({what})", best["ours"] / RECORDS / 10 * 1e6, "(not a ratio)", True, "us")
    assert ratio > 2


def test_the_newest_ten_beside_papyras_json_backend(backends, report):
    for backend in backends:
        asyncio.run(record_events(backend, STORED))
    ours, papyra = backends
    best = best_seconds(
        {
            "ours": lambda: asyncio.run(ours.list_events(limit=10)),
            "papyra": lambda: asyncio.run(papyra.list_events(limit=10)),
        },
        rounds=4,
        clock=time.perf_counter,
    )
    ratio = best["papyra"] / best["ours"]
    report(
        f"newest 10 of {STORED:,} through PapyraPersistence : papyra 0.3 JSON", ratio, ">= 20 x", ratio >= 20
    )
    assert ratio > 5
