from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import Done
from papyra_otel.cli import demo

Run = Callable[..., Done]

STORY = Counter(
    [
        ("pykka", "event", "actor.started", "Robot", None),
        ("pykka", "event", "actor.started", "Robot", None),
        ("shop", "event", "system.started", None, None),
        ("shop", "event", "actor.started", "Payments", None),
        ("shop", "event", "actor.started", "Printer", None),
        ("shop", "event", "message.processed", "Payments", None),
        ("shop", "event", "message.processed", "Payments", "CardDeclined"),
        ("shop", "event", "actor.exception", "Payments", "CardDeclined"),
        ("shop", "event", "actor.restarted", "Payments", None),
        ("shop", "event", "supervision.decided", "Payments", "restarted"),
        ("shop", "event", "message.processed", "Payments", "CardDeclined"),
        ("shop", "event", "actor.exception", "Payments", "CardDeclined"),
        ("shop", "event", "supervision.decided", "Payments", "restart_limit_exceeded"),
        ("shop", "event", "actor.stopped", "Payments", "restart_limit"),
        ("shop", "dead_letter", "dead_letter.captured", "Payments", "actor_stopped"),
        ("shop", "event", "ask.timed_out", "Printer", None),
        ("shop", "audit", "audit.completed", None, True),
        ("pykka", "audit", "audit.completed", None, True),
        ("shop", "event", "message.processed", "Printer", None),
        ("shop", "dead_letter", "dead_letter.captured", "Printer", "undrained"),
        ("shop", "event", "actor.stopped", "Printer", "system_shutdown"),
        ("shop", "event", "system.stopped", None, None),
        ("pykka", "event", "message.processed", "Robot", None),
        ("pykka", "event", "message.processed", "Robot", "OverflowError"),
        ("pykka", "event", "actor.exception", "Robot", "OverflowError"),
        ("pykka", "event", "actor.stopped", "Robot", "supervision"),
        ("pykka", "dead_letter", "dead_letter.captured", "Robot", "actor_stopped"),
        ("pykka", "event", "message.processed", "Robot", None),
        ("pykka", "event", "actor.stopped", "Robot", "requested"),
        ("pykka", "dead_letter", "dead_letter.captured", "Robot", "undrained"),
    ]
)


def told(found: dict[str, Any]) -> tuple[Any, ...]:
    attributes = found["attributes"]
    telling = (
        "papyra.supervision.outcome",
        "papyra.actor.stop.reason",
        "papyra.dead_letter.reason",
        "papyra.audit.healthy",
        "error.type",
    )
    reason = next((attributes[name] for name in telling if name in attributes), None)
    short = None if reason is None or reason is True else reason.rpartition(".")[2]
    actor_type = attributes.get("papyra.actor.type")
    return (
        found["system"],
        found["kind"],
        found["name"].removeprefix("papyra."),
        None if actor_type is None else actor_type.rpartition(".")[2],
        short if reason is not True else True,
    )


def test_every_run_records_exactly_this_story(run: Run, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for folder in ("one", "two"):
        done = run("demo", "--json", "--dir", str(tmp_path / folder))
        assert done.code == 0
        assert Counter(map(told, done.objects)) == STORY
    assert set(threading.enumerate()) <= before


def test_secrets_are_masked(run: Run, tmp_path: Path) -> None:
    run("demo", "--json", "--dir", str(tmp_path / "here"))
    recorded = b"".join(path.read_bytes() for path in (tmp_path / "here").rglob("*.ndjson"))
    assert b"euros" in recorded
    assert b"tok-" not in recorded


def test_people_see_the_timeline_the_files_and_what_to_try(run: Run, tmp_path: Path) -> None:
    done = run("demo", "--dir", "here with space")
    assert (done.code, done.err) == (0, "")
    for text in ("restart_limit", "actor_stopped: tell Charge", "healthy", "restart → restarted"):
        assert text in done.out
    assert "30 facts: 24 events, 2 audits, 4 dead letters." in done.out
    assert f"The files, in {tmp_path}/here with space:" in done.out
    for path in (tmp_path / "here with space").rglob("*.ndjson"):
        assert str(path.relative_to(tmp_path / "here with space")) in done.out
    assert str(Path(demo.__file__).with_name("demo_system.py")) in done.out


def test_the_commands_to_try_work(run: Run) -> None:
    out = run("demo", "--dir", "here with space").out
    commands = [line.strip() for line in out.splitlines() if line.startswith(("  papyra-otel ", "  jq "))]
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)
        if words[0] == "papyra-otel":
            done = run(*words[1:])
            assert (done.code, done.err) == (0, "")
            assert done.out
        elif shutil.which("jq"):
            done_jq = subprocess.run(["bash", "-c", command], capture_output=True, check=True, text=True)
            assert done_jq.stdout.count("papyra.actor.exception") == 3


def test_settings_of_the_caller_do_not_change_the_story(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_MESSAGES", "off")
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_NONSENSE", "1")
    assert Counter(map(told, run("demo", "--json").objects)) == STORY


def test_json_leaves_the_rest_to_standard_error(run: Run) -> None:
    done = run("demo", "--json")
    assert all(json.loads(line)["uid"] for line in done.out.splitlines())
    assert "30 facts: 24 events, 2 audits, 4 dead letters.\n" in done.err
    assert "  papyra-otel stats --log file:///" in done.err


def test_a_temporary_folder_is_made_each_time_and_kept(run: Run) -> None:
    folders = {line for line in run("demo").out.splitlines() if line.startswith("The files, in ")}
    folders |= {line for line in run("demo").out.splitlines() if line.startswith("The files, in ")}
    assert len(folders) == 2
    for folder in folders:
        path = Path(folder.removeprefix("The files, in ").removesuffix(":"))
        assert path.is_dir()
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("missing", "text"),
    [(["pykka"], "the demo needs pykka;"), (["papyra", "pykka"], "the demo needs papyra and pykka;")],
)
def test_without_the_runtimes_it_says_what_to_install(
    missing: list[str], text: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in missing else name)
    done = run("demo")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"papyra-otel: error: {text} pip install 'papyra-otel[demo]'\n"


def test_a_folder_with_something_in_it_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = run("demo", "--dir", "full")
    assert done.code == 2
    assert "--dir full: that folder is not empty" in done.err


def test_a_program_that_fails_is_a_bug_and_its_words_are_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    done = run("demo")
    assert done.code == 70
    assert "the demo's program ended with 1" in done.err
