"""Wrong settings: one clear line on stderr, nothing recorded, and an application that does not notice."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import papyra_otel
from e2e.harness import INSTRUMENT, NO_EXPORT, clean_environment, run, run_code, stored
from papyra_otel import Actor, ConfigError, LogUnavailable, PapyraOtelError
from papyra_otel.log.codec import sign

APP = """
import pykka
class Echo(pykka.ThreadingActor):
    def on_receive(self, message):
        return message
echo = Echo.start()
print(echo.ask("hello"), echo.stop())
"""
PREFIX = "OTEL_PYTHON_PAPYRA_"

WRONG_SETTINGS = [
    ("LOG", "no-scheme", ["no-scheme", "file:no-scheme"]),
    ("LOG", "ftp://host/dir", ["ftp", "known are file, memory"]),
    ("LOG", "file:", ["file:relative/dir"]),
    ("LOG", "file://server/dir", ["names a host", "file:///server/dir"]),
    ("LOG", "file:dir?x=1", ["query"]),
    ("LOG", "ftp://me:secret@host/dir", ["ftp"]),
    ("RETENTION", "events=soon", ["retention", "soon", "events=7d"]),
    ("RETENTION", "letters=7d", ["retention", "letters", "dead_letters=90d"]),
    ("RETENTION", "events=0d", ["retention", "would hide everything"]),
    ("RETENTON", "events=7d", ["OTEL_PYTHON_PAPYRA_RETENTON", "did you mean OTEL_PYTHON_PAPYRA_RETENTION?"]),
    ("COLOUR", "blue", ["OTEL_PYTHON_PAPYRA_COLOUR", "known: LOG"]),
    ("FSYNC", "sometimes", ["OTEL_PYTHON_PAPYRA_FSYNC", "sometimes", "never, interval, always"]),
    ("WRITE", "fast", ["OTEL_PYTHON_PAPYRA_WRITE", "through, queued"]),
    ("STARTUP", "panic", ["OTEL_PYTHON_PAPYRA_STARTUP", "ignore, scan, recover, fail"]),
    ("MESSAGES", "sampled:0", ["OTEL_PYTHON_PAPYRA_MESSAGES", "sampled:N"]),
    ("PAYLOAD", "all", ["OTEL_PYTHON_PAPYRA_PAYLOAD", "none, redacted, full"]),
    ("FORWARD", "maybe", ["OTEL_PYTHON_PAPYRA_FORWARD", "live, outbox, off"]),
    ("FORWARD_PAYLOAD", "perhaps", ["OTEL_PYTHON_PAPYRA_FORWARD_PAYLOAD", "true, false"]),
    ("AUDIT_INTERVAL", "often", ["OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL", "30s"]),
    ("AUDIT_INTERVAL", "0", ["OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL", "more than 0"]),
    ("SCAN_INTERVAL", "-1", ["OTEL_PYTHON_PAPYRA_SCAN_INTERVAL", "5m"]),
]


def missing_parent(folder: Path) -> Path:
    return folder / "not-there" / "facts"


def file_instead(folder: Path) -> Path:
    (folder / "taken").write_text("mine")
    return folder / "taken"


def below_a_file(folder: Path) -> Path:
    return file_instead(folder) / "facts"


def not_writable_by_the_kernel(_: Path) -> Path:
    return Path("/proc/self/facts")


WRONG_PLACES = [
    (missing_parent, "create its parent folder"),
    (file_instead, "a file is where a folder should be"),
    (below_a_file, "a file is where a folder should be"),
    (not_writable_by_the_kernel, "/proc/self/facts"),
]


@pytest.fixture(autouse=True)
def no_recording() -> Iterator[None]:
    yield
    papyra_otel.disable()


def check_app_runs_on(
    folder: Path, env: dict[str, str], needles: list[str], front: Sequence[str] = ()
) -> str:
    """Run the app under ``opentelemetry-instrument``; it must behave, and one line must hold all *needles*."""
    app = folder / "app.py"
    app.write_text(APP, "utf-8")
    before = set(folder.rglob("*"))
    arguments = [*front, INSTRUMENT, sys.executable, str(app)]
    done = run(arguments, cwd=folder, env={**NO_EXPORT, **env})
    assert (done.stdout, done.returncode) == ("hello True\n", 0), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("papyra-otel: not recording: ")
    assert line.endswith(" The application runs on without it.")
    assert [needle for needle in needles if needle not in line] == []
    assert "secret" not in line
    assert set(folder.rglob("*")) == before, "something was written"
    return line


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value", "needles"), WRONG_SETTINGS)
def test_a_wrong_setting_is_told_in_one_line_and_the_app_runs_on(
    name: str, value: str, needles: list[str], tmp_path: Path
) -> None:
    check_app_runs_on(tmp_path, {PREFIX + name: value}, needles)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "remedy"), WRONG_PLACES)
def test_a_folder_that_cannot_be_is_told_in_one_line_and_the_app_runs_on(
    make: Callable[[Path], Path], remedy: str, tmp_path: Path
) -> None:
    place = make(tmp_path)
    check_app_runs_on(tmp_path, {PREFIX + "LOG": f"file:{place}"}, [str(place), remedy])


@pytest.mark.slow
def test_a_folder_without_permission_is_told_and_the_app_runs_on(
    unprivileged: list[str], tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    check_app_runs_on(
        tmp_path, {PREFIX + "LOG": f"file:{locked}"}, [str(locked), "give this user"], front=unprivileged
    )


@pytest.mark.slow
def test_beside_a_newer_versions_log_recording_goes_on_and_that_is_said(tmp_path: Path) -> None:
    root = newer_log(tmp_path)
    app = tmp_path / "app.py"
    app.write_text(APP, "utf-8")
    env = {**NO_EXPORT, PREFIX + "LOG": f"file:{root}", PREFIX + "SYSTEM": "ours"}
    done = run([INSTRUMENT, sys.executable, str(app)], cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == ("hello True\n", 0)
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"papyra-otel: .*line format 2 by a newer papyra-otel.* Recording goes on\.", line)
    with papyra_otel.open_log(f"file:{root}", system="ours") as log:
        names = [entry.fact.name for entry in log.read()]
    assert names.pop(0) == "papyra.log.scanned"
    assert names == ["papyra.actor.started", "papyra.message.processed", "papyra.actor.stopped"]
    assert newer_segment(root).read_bytes() == NEWER


NEWER = sign(b'{"v":2,"writer":"aaaaaaaaaaaaaaaa","seq":0,"something":"new"}')


def newer_segment(root: Path) -> Path:
    return root / "theirs" / "events" / "20991122T200245Z-aaaaaaaaaaaaaaaa-000001.ndjson"


def newer_log(folder: Path) -> Path:
    root = folder / "facts"
    newer_segment(root).parent.mkdir(parents=True)
    newer_segment(root).write_bytes(NEWER)
    return root


@pytest.mark.parametrize(("name", "value", "needles"), WRONG_SETTINGS)
def test_enable_says_what_is_wrong_and_returns_a_recording_that_is_off(
    name: str, value: str, needles: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    os.chdir(tmp_path)
    recording = papyra_otel.enable(**{name.lower(): value})
    check_is_off(recording, ConfigError)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("papyra-otel: not recording: ")
    assert [needle for needle in needles if needle not in line] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("make", "remedy"), WRONG_PLACES)
def test_enable_says_what_is_wrong_with_a_place(
    make: Callable[[Path], Path], remedy: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = make(tmp_path)
    recording = papyra_otel.enable(f"file:{place}")
    check_is_off(recording, LogUnavailable)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(place) in line
    assert remedy in line


def check_is_off(recording: papyra_otel.Recording, kind: type[PapyraOtelError]) -> None:
    """See that *recording* is off, that its verbs may be called all the same, and that nothing was patched."""
    import pykka

    assert not recording.active
    assert isinstance(recording.error, kind)
    assert recording.log_url is None
    assert recording.capabilities() == ()
    actor = Actor(system="s", type="T", address="s/1")
    recorder = recording.recorder
    recorder.started(actor)
    recorder.crashed(actor, ValueError("x"), phase="receive")
    recorder.restarted(actor, incarnation=1)
    recorder.decided(actor, directive="stop", source="policy", outcome="stopped")
    recorder.processed(actor, message=object(), kind="tell", duration_seconds=0.1)
    recorder.dead_letter(actor, message=object(), reason="actor_stopped", kind="tell")
    recorder.ask_timed_out(actor, message=1, timeout_seconds=1.0)
    recorder.stopped(actor, reason="requested")
    recording.audit()
    recording.flush()
    assert not hasattr(pykka.ActorRef.tell, "__wrapped__")


def test_after_a_wrong_start_a_right_one_records(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert not papyra_otel.enable("nonsense").active
    good = papyra_otel.enable(f"file:{tmp_path}/facts", runtimes=())
    assert good.active
    good.recorder.started(Actor(system="s", type="T", address="s/1"))
    assert len(stored(tmp_path / "facts")) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_closed_stderr_is_no_reason_to_fail(tmp_path: Path) -> None:
    code = (
        "import sys, papyra_otel\nsys.stderr.close()\nprint(papyra_otel.enable('nonsense').active)\n"
        "sys.stderr = None\npapyra_otel.disable(); print(papyra_otel.enable('nonsense').active)\n"
    )
    assert run_code(code, cwd=tmp_path).stdout == "False\nFalse\n"


def test_the_environment_of_these_tests_is_clean() -> None:
    assert [name for name in clean_environment() if name.startswith("OTEL_")] == []
