"""``papyra-otel metrics``: processes that may be asked answer, whatever else is there; the log tells what it can."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import DAY
from e2e.harness import clean_environment
from papyra_otel import open_log, plugin
from papyra_otel.pipeline.hatch import ask, sockets

Run = Callable[..., Any]

PROGRAM = """
import os, sys, papyra_otel
from papyra_otel import Actor
recording = papyra_otel.enable(sys.argv[1], runtimes=(), metrics_socket=True, forward="off")
for n in range(7):
    recording.recorder.started(Actor(system="shop", type="Clerk", address=f"shop/{n}"))
child = os.fork() if len(sys.argv) > 2 else 1
if child == 0:
    recording.recorder.started(Actor(system="shop", type="Child", address="shop/c"))
print("ready", flush=True)
sys.stdin.read()
if child != 1 and child != 0: os.waitpid(child, 0)
"""


@pytest.fixture
def program(tmp_path: Path):
    running = []

    def start(url: str, *more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, *more],
            env=clean_environment(),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    yield start
    for process in running:
        process.kill()
        with process:
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()


def values(metrics: list[dict[str, Any]], name: str) -> dict[str, int]:
    (metric,) = [each for each in metrics if each["name"] == name]
    return {json.dumps(point["attributes"], sort_keys=True): point["value"] for point in metric["points"]}


@pytest.mark.slow
def test_a_running_process_answers(tmp_path: Path, program, run: Run) -> None:
    url = f"file:{tmp_path}/facts"
    process = program(url)
    done = run("metrics", "--log", url, "--json")
    assert (done.code, done.err) == (0, "")
    (told,) = done.objects
    assert set(told) == {"log", "processes", "stored"}
    (found,) = told["processes"]
    assert set(found) == {"pid", "system", "started", "metrics"}
    assert found["pid"] == process.pid
    assert sum(values(found["metrics"], "papyra.actor.starts").values()) == 7
    assert sum(values(told["stored"], "papyra.persistence.storage.records").values()) >= 7
    (name,) = sockets(tmp_path / "facts")
    folder = tmp_path / "facts/.metrics"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    process.stdin.close()
    assert process.wait(30) == 0
    assert sockets(tmp_path / "facts") == []
    shown = run("metrics", "--log", url, "--name", "storage")
    assert "persistence.storage.records" in shown.out
    assert "No process can be asked" in shown.err


@pytest.mark.slow
def test_a_forked_child_answers_for_itself(tmp_path: Path, program, run: Run) -> None:
    url = f"file:{tmp_path}/facts"
    process = program(url, "fork")
    assert process.stdout.readline() == "ready\n"
    (told,) = run("metrics", "--log", url, "--json").objects
    started = sorted(
        sum(values(each["metrics"], "papyra.actor.starts").values()) for each in told["processes"]
    )
    assert started == [1, 7]
    assert len({each["pid"] for each in told["processes"]}) == 2


@pytest.mark.slow
def test_what_a_killed_process_left_is_passed_over_and_removed_by_the_next(
    tmp_path: Path, program, run: Run
) -> None:
    url = f"file:{tmp_path}/facts"
    killed = program(url)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(sockets(tmp_path / "facts")) == 1
    assert run("metrics", "--log", url, "--json").objects[0]["processes"] == []
    program(url)
    assert len(sockets(tmp_path / "facts")) == 1
    with open_log(url) as log:
        assert log.scan().counts.get("unexpected_file", 0) == 0


@pytest.mark.slow
def test_a_long_path_is_no_hindrance(tmp_path: Path, program, run: Run) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    url = f"file:{folder}/facts"
    program(url)
    assert len(run("metrics", "--log", url, "--json").objects[0]["processes"]) == 1


@pytest.mark.slow
def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    recording = plugin.enable(f"file:{tmp_path}/facts", runtimes=(), forward="off")
    try:
        assert recording.active
        assert sockets(tmp_path / "facts") == []
    finally:
        plugin.disable()


def test_a_stranger_s_socket_cannot_keep_us(tmp_path: Path) -> None:
    folder = tmp_path / ".metrics"
    folder.mkdir()
    (folder / "1-a.sock").write_text("no socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.fspath(folder / "2-b.sock"))
    listening.listen()
    with listening:
        assert ask(tmp_path, "1-a.sock") is None
        assert ask(tmp_path, "2-b.sock") is None  # it never answers
        assert ask(tmp_path, "3-c.sock") is None


def test_the_log_alone_tells_what_is_stored(written: Callable[..., str], run: Run) -> None:
    url = written(*DAY)
    (told,) = run("metrics", "--log", url, "--json").objects
    assert sum(values(told["stored"], "papyra.persistence.storage.records").values()) == len(DAY)
    assert [each["name"] for each in told["stored"] if "delivery" in each["name"]] == []
    with open_log(url) as log:
        outlet = log.outlet()
        outlet.acquire()
        outlet.done(outlet.next_batch(lambda fact: True, 2, 1 << 20))
        outlet.release()
    (told,) = run("metrics", "--log", url, "--json").objects
    (lag,) = values(told["stored"], "papyra.delivery.lag").values()
    assert lag == len(DAY) - 2
    (age,) = values(told["stored"], "papyra.delivery.age").values()
    assert age > 0
    shown = run("metrics", "--log", url, "--name", "delivery")
    assert "delivery.lag" in shown.out
    assert "storage" not in shown.out
