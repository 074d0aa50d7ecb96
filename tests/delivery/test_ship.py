"""``papyra-otel ship``: the same delivery from outside, once or as a sidecar."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import papyra_otel
from delivery.conftest import fact, record
from delivery.receivers import RECEIVERS, Answer, in_turn, uids_in
from e2e.harness import clean_environment, eventually
from papyra_otel.cli import main


class Clock:
    """Time passes only while somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def ticks(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def ship(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)

    def call(receiver, *argv: str, **environ: str) -> tuple[int, str, str]:
        for name, value in receiver.environ(**environ).items():
            monkeypatch.setenv(name, value)
        clock = Clock()
        try:
            code = main(["ship", *argv], ticks=clock.ticks, wait=clock.wait)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out if "--json" in argv else " ".join(out.split()), err

    return call


def test_it_delivers_what_there_is_and_ends(url, receiver, ship):
    uids = record(url, range(600))
    code, out, err = ship(receiver, "--log", url)
    assert (code, err) == (0, "")
    assert out.startswith("Delivered 600 facts to ")
    assert receiver.uids == uids
    assert ship(receiver, "--log", url)[1].startswith("Delivered 0 facts")


def test_json_says_the_same(url, receiver, ship):
    record(url, range(3))
    code, out, _ = ship(receiver, "--log", url, "--json")
    told = json.loads(out)
    assert code == 0
    assert set(told) == {"log", "receiver", "outlet", "delivered", "refused", "complete"}
    assert (told["delivered"], told["refused"], told["complete"], told["outlet"]) == (3, 0, True, "otlp")


def test_it_gives_up_when_patience_ends(url, receiver, ship):
    uids = record(url, range(3))
    receiver.behave = lambda request: Answer(503, message="closed")
    code, out, err = ship(receiver, "--log", url, "--patience", "20")
    assert code == 1
    assert "What is left stays in the log" in " ".join(out.split())
    assert "closed" in err
    receiver.behave = in_turn([Answer(503)])
    assert ship(receiver, "--log", url)[0] == 0
    assert receiver.uids == uids


def test_a_slow_rate_is_no_reason_to_give_up(url, receiver, ship):
    uids = record(url, range(1500))
    assert ship(receiver, "--log", url, "--rate", "1", "--patience", "1")[0] == 0
    assert receiver.uids == uids


def test_what_is_refused_is_told_by_the_exit_code(url, receiver, ship, tmp_path):
    uids = record(url, range(10))
    receiver.behave = lambda request: Answer(400) if uids[3] in uids_in(request) else Answer()
    code, out, err = ship(receiver, "--log", url)
    assert code == 1
    assert "1 fact refused for good" in " ".join(out.split())
    assert ".refused-" in err
    assert len(list(Path(tmp_path, "facts/.delivery").glob("*.refused-*"))) == 1


def test_settings_say_what_leaves(url, receiver, ship):
    record(url, [fact(0, name="papyra.message.processed")])
    ship(receiver, "--log", url)
    assert receiver.uids == []
    ship(receiver, "--log", url, "--outlet", "all", OTEL_PYTHON_PAPYRA_FORWARD_MESSAGES="true")
    assert len(receiver.uids) == 1


def test_one_system_only(url, receiver, ship):
    record(url, [fact(0), fact(1, system="other")])
    assert ship(receiver, "--log", url, "--system", "other", "--outlet", "other")[0] == 0
    assert len(receiver.uids) == 1


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["--rate", "0"], {}, "not a number above 0"),
        (["--patience", "soon"], {}, "not a number above 0"),
        (["--outlet", "A/B"], {}, "outlet 'A/B'"),
        ([], {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "OTEL_EXPORTER_OTLP_PROTOCOL='smoke'"),
        ([], {"OTEL_EXPORTER_OTLP_TIMEOUT": "-1"}, "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ([], {"OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION='zip'"),
        ([], {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such"}, "OTEL_EXPORTER_OTLP_CERTIFICATE='/no/such'"),
        (["--log", "file:nowhere"], {}, "nowhere"),
        (["--log", "memory:"], {}, "memory:"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(url, receiver, ship, argv, environ, said):
    record(url, range(1))
    arguments = argv if "--log" in argv else ["--log", url, *argv]
    code, out, err = ship(receiver, *arguments, **environ)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_while_another_one_delivers_it_says_so(url, receiver, ship):
    record(url, range(1))
    with papyra_otel.open_log(url) as log:
        outlet = log.outlet()
        outlet.acquire()
        code, _, err = ship(receiver, "--log", url)
        outlet.release()
    assert code == 2
    assert "another process delivers" in err


@pytest.mark.slow
class TestSidecar:
    def start(self, url, receiver, tmp_path):
        return subprocess.Popen(
            [sys.executable, "-m", "papyra_otel", "ship", "--follow", "--log", url, "--json"],
            env=clean_environment(receiver.environ()),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_it_follows_and_ends_in_order(self, url, receiver, tmp_path):
        record(url, range(3))
        process = self.start(url, receiver, tmp_path)
        eventually(lambda: len(receiver.uids) == 3)
        uids = record(url, range(3, 6))
        eventually(lambda: len(receiver.uids) == 6)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)["delivered"] == 6
        assert sorted(receiver.uids) == sorted(uids)

    def test_it_may_begin_before_the_log(self, url, receiver, tmp_path):
        process = self.start(url, receiver, tmp_path)
        eventually(lambda: "facts" in process.stderr.readline())
        record(url, range(3))
        eventually(lambda: len(receiver.uids) == 3)
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0

    def test_a_second_one_takes_over_when_the_first_is_killed(self, url, receiver, tmp_path):
        record(url, range(3))
        first = self.start(url, receiver, tmp_path)
        eventually(lambda: len(receiver.uids) == 3)
        second = self.start(url, receiver, tmp_path)
        first.kill()
        first.communicate()
        uids = record(url, range(3, 6))
        eventually(lambda: len(set(receiver.uids)) == 6)
        second.terminate()
        second.communicate(timeout=30)
        assert second.returncode == 0
        assert set(receiver.uids) == set(uids)

    @pytest.mark.parametrize("kind", RECEIVERS)
    def test_killed_at_any_request_it_loses_nothing(self, url, tmp_path, kind):
        receiver = RECEIVERS[kind]()
        uids = record(url, range(3000))
        try:
            for _ in range(3):
                process = self.start(url, receiver, tmp_path)
                asked = len(receiver.requests)

                def behave(request, process=process, asked=asked):
                    if len(receiver.requests) == asked + 2:
                        process.kill()
                        process.wait()
                        return Answer(reset=True, taken=True)
                    return Answer()

                receiver.behave = behave
                process.communicate(timeout=30)
                assert process.returncode == -signal.SIGKILL
            receiver.behave = in_turn([])
            process = self.start(url, receiver, tmp_path)
            eventually(lambda: set(receiver.uids) == {*uids})
            process.terminate()
            process.communicate(timeout=30)
            assert max(Counter(receiver.uids).values()) <= 4
        finally:
            receiver.close()
