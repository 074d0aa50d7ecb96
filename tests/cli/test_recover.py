from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import Done, HandMadeLog, fact, report_of
from papyra_otel.errors import LogBusy
from papyra_otel.reports import RecoveryReport, Skipped

Run = Callable[..., Done]
Make = Callable[..., HandMadeLog]


def recovery(found: list[str], remaining: list[str], **members: Any) -> RecoveryReport:
    made = {"mode": "quarantine", "dry_run": False, **members}
    return RecoveryReport(found=report_of(*found), remaining=report_of(*remaining), **made)


CHANGES: dict[str, Any] = {
    "rewritten": ("shop/events/1.ndjson",),
    "kept_in": ("shop/quarantine/1.ndjson",),
    "quarantined_spans": 2,
    "quarantined_bytes": 300,
    "repaired_lines": 1,
    "leftovers_removed": ("shop/events/2.ndjson.tmp",),
}


@pytest.mark.parametrize(
    ("report", "options", "code", "last"),
    [
        (recovery([], []), [], 0, "There is nothing to recover."),
        (recovery(["gap"], [], **CHANGES), [], 0, "Recovered: nothing remains to be looked at."),
        (recovery(["gap"], ["clock_jump"], **CHANGES), [], 0, "Recovered: nothing remains to be looked at."),
        (recovery(["gap"], ["gap"], **CHANGES), [], 1, "Recovery leaves what a living writer writes to"),
        (recovery(["gap"], ["gap"]), [], 1, "Nothing of that can be recovered now."),
        (
            recovery(["gap"], ["gap"], dry_run=True, **CHANGES),
            ["--dry-run"],
            1,
            "To do it: papyra-otel recover --log hand:",
        ),
        (
            recovery(["gap"], ["gap"], dry_run=True, mode="repair", **CHANGES),
            ["--dry-run", "--mode=repair"],
            1,
            "To do it: papyra-otel recover --log hand: --mode repair",
        ),
        (
            recovery(["gap"], ["gap"], mode="ignore"),
            ["--mode", "ignore"],
            1,
            "Next: papyra-otel recover --log hand: --dry-run",
        ),
        (recovery([], [], mode="ignore"), ["--mode", "ignore"], 0, "There is nothing to recover."),
    ],
)
def test_the_exit_code_says_whether_anything_remains(
    report: RecoveryReport, options: list[str], code: int, last: str, run: Run, hand_made: Make
) -> None:
    hand_made(recover=report)
    done = run("recover", "--log", "hand:", *options)
    assert (done.code, done.err) == (code, "")
    assert done.out.splitlines()[-1].startswith(last)
    assert run("recover", "--json", *options).code == code


def test_the_mode_and_the_dry_run_reach_the_log(run: Run, hand_made: Make) -> None:
    log = hand_made(recover=recovery([], []))
    run("recover")
    run("recover", "--mode", "repair", "--dry-run")
    assert log.asked == [
        ("recover", ("quarantine",), {"dry_run": False}),
        ("recover", ("repair",), {"dry_run": True}),
    ]


def test_what_was_done_is_told_with_the_places(run: Run, hand_made: Make) -> None:
    skipped = (
        Skipped(place="shop/events/9.ndjson", reason="its writer is alive"),
        Skipped(place="", reason="full"),
    )
    hand_made(recover=recovery(["gap"], [], **CHANGES, skipped=skipped))
    lines = run("recover").out.splitlines()
    assert lines[lines.index("Kept 2 damaged spans (300 B) in") + 1] == "  shop/quarantine/1.ndjson"
    assert "Repaired 1 line" in lines
    assert (
        lines[lines.index("Rewrote 1 segment, every good fact in its place") + 1] == "  shop/events/1.ndjson"
    )
    assert lines[lines.index("Removed 1 leftover") + 1] == "  shop/events/2.ndjson.tmp"
    assert lines[lines.index("left shop/events/9.ndjson") + 1] == "  its writer is alive"
    assert lines[lines.index("left the record of it") + 1] == "  full"


def test_a_dry_run_says_what_would_be_done(run: Run, hand_made: Make) -> None:
    hand_made(recover=recovery(["gap"], ["gap"], dry_run=True, **{**CHANGES, "quarantined_spans": 0}))
    lines = run("recover", "--dry-run").out.splitlines()
    assert "Would keep the evidence in" in lines
    assert "Would rewrite 1 segment, every good fact in its place" in lines
    assert "Would remove 1 leftover" in lines
    assert "This was a dry run: nothing was changed." in lines


def test_of_many_places_the_first_are_shown(run: Run, hand_made: Make) -> None:
    hand_made(recover=recovery(["gap"], [], rewritten=tuple(f"place-{n}" for n in range(1000))))
    lines = run("recover").out.splitlines()
    assert sum(line.startswith("  place-") for line in lines) == 4
    assert "  and 996 more; --json lists all" in lines


def test_json_has_exactly_the_documented_members(run: Run, hand_made: Make) -> None:
    recorded = (fact(name="papyra.log.recovered").identified("9f2c41d07be3a815", 7),)
    skipped = (Skipped(place="p", reason="r"),)
    hand_made(
        recover=recovery(["gap"], [], **CHANGES, skipped=skipped, recorded=recorded, duration_seconds=0.5),
        scan=report_of("gap"),
    )
    done = run("recover", "--log", "hand:", "--json")
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    found = run("scan", "--json").objects[0]
    del found["log"]
    told = json.loads(done.out)
    assert told.pop("found") == found
    assert told.pop("remaining")["healthy"] is True
    assert told == {
        "log": "hand:",
        "mode": "quarantine",
        "dry_run": False,
        "changed": True,
        "rewritten": ["shop/events/1.ndjson"],
        "kept_in": ["shop/quarantine/1.ndjson"],
        "leftovers_removed": ["shop/events/2.ndjson.tmp"],
        "quarantined_spans": 2,
        "quarantined_bytes": 300,
        "repaired_lines": 1,
        "skipped": [{"place": "p", "reason": "r"}],
        "recorded": ["9f2c41d07be3a815-event-7"],
        "duration_seconds": 0.5,
    }


def test_a_log_that_is_busy_is_told_in_one_line(run: Run, hand_made: Make) -> None:
    hand_made(recover=LogBusy("another process is recovering it"))
    assert run("recover") == Done(2, "", "papyra-otel: error: another process is recovering it\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Interrupted. No fact is lost by that; the next run finishes what is left.\n"),
        (["--dry-run"], ""),
        (["--mode=ignore"], ""),
    ],
)
def test_ctrl_c_says_what_it_means(options: list[str], said: str, run: Run, hand_made: Make) -> None:
    hand_made(recover=KeyboardInterrupt())
    assert run("recover", *options) == Done(130, "", said)


# --- on real damage ----------------------------------------------------------------------------------


def test_a_damaged_log_is_recovered_and_a_second_run_changes_nothing(
    damaged: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "facts" / "shop" / "events" / "b\udcffd.txt").unlink()
    before = run("facts", "--log", damaged).out
    trial = run("recover", "--log", damaged, "--dry-run", "--json")
    assert (trial.code, trial.objects[0]["changed"]) == (1, True)
    done = run("recover", "--log", damaged, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.objects[0]["kept_in"] == trial.objects[0]["kept_in"]
    assert all((tmp_path / "facts" / place).is_file() for place in done.objects[0]["kept_in"])
    after = run("facts", "--log", damaged).out.splitlines()
    assert [line for line in after if "log.recovered" not in line] == before.splitlines()
    again = run("recover", "--log", damaged, "--json")
    assert (again.code, again.objects[0]["changed"]) == (0, False)
    assert run("scan", "--log", damaged).code == 0


def test_what_recovery_does_not_touch_remains(damaged: str, run: Run) -> None:
    done = run("recover", "--log", damaged)
    assert done.code == 1
    assert "Recovered. What remains:" in done.out
    assert r"shop/events/b\udcffd.txt" in done.out
    assert "Nothing of that can be recovered now." in run("recover", "--log", damaged).out
