from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import Done, fact
from papyra_otel import FactKind

Run = Callable[..., Done]


def lines_of(root: Path, kind: str) -> list[bytes]:
    files = root.glob(f"*/{kind}/*.ndjson")
    return [
        line
        for path in files
        for line in path.read_bytes().splitlines(keepends=True)
        if b"segment." not in line
    ]


def test_json_has_exactly_the_documented_members(a_day: str, run: Run, tmp_path: Path) -> None:
    done = run("stats", "--log", a_day, "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    assert json.loads(done.out) == {
        "log": a_day,
        "systems": ["shop", "store"],
        "writers": 2,
        "kinds": {
            "event": {
                "records": 4,
                "bytes": sum(map(len, lines_of(tmp_path / "facts", "events"))),
                "oldest": "2026-11-22T12:00:00.000000000Z",
                "newest": "2026-11-23T12:00:00.000000000Z",
            },
            "audit": {
                "records": 1,
                "bytes": sum(map(len, lines_of(tmp_path / "facts", "audits"))),
                "oldest": "2026-11-22T12:04:00.000000000Z",
                "newest": "2026-11-22T12:04:00.000000000Z",
            },
            "dead_letter": {
                "records": 1,
                "bytes": sum(map(len, lines_of(tmp_path / "facts", "dead_letters"))),
                "oldest": "2026-11-22T12:03:00.000000000Z",
                "newest": "2026-11-22T12:03:00.000000000Z",
            },
        },
    }


def test_an_empty_log_has_no_times(written: Any, run: Run) -> None:
    done = run("stats", "--log", written(), "--json")
    assert done.objects[0]["kinds"]["event"] == {"records": 0, "bytes": 0}
    assert run("stats", "--log", written()).out.splitlines()[1].split() == [
        "event",
        "0",
        "0",
        "B",
        "0",
        "-",
        "-",
    ]


def test_the_table_has_sizes_for_people_and_exact_ones(
    written: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    facts = [fact(n, attributes={"text": "x" * 900}) for n in range(1200)]
    late, early = fact(5000, kind=FactKind.AUDIT, system="store"), fact(-60, kind=FactKind.DEAD_LETTER)
    url = written(*facts, late, early)
    exact = run("stats", "--log", url, "--json").objects[0]["kinds"]["event"]["bytes"]
    lines = run("stats", "--log", url).out.splitlines()
    assert lines[0].split() == ["KIND", "RECORDS", "SIZE", "BYTES", "OLDEST", "(UTC)", "NEWEST", "(UTC)"]
    assert lines[1].split() == [
        "event",
        "1,200",
        f"{exact / 2**20:.1f}",
        "MiB",
        f"{exact:,}",
        "2026-11-22",
        "12:00:00",
        "2026-11-22",
        "12:19:59",
    ]
    assert lines[3].split()[:2] == ["dead_letter", "1"]
    assert lines[4].split()[:2] == ["all", "1,202"]
    assert lines[4].endswith("  2026-11-22 11:59:00  2026-11-22 13:23:20")
    assert lines[-3:] == [f"Log      {url}", "Systems  shop, store", "Writers  2"]


def test_one_system_only(a_day: str, run: Run) -> None:
    done = run("stats", "--log", a_day, "--json", "--system", "store")
    assert done.objects[0]["systems"] == ["store"]
    assert {kind: found["records"] for kind, found in done.objects[0]["kinds"].items()} == {
        "event": 0,
        "audit": 0,
        "dead_letter": 1,
    }


def test_names_of_systems_cannot_control_the_terminal(written: Any, run: Run) -> None:
    url = written(fact(system="evil\x1b[2J"))
    for options in ([], ["--json"]):
        assert "\x1b" not in run("stats", "--log", url, *options).out
