"""Programs that record into a real server: enabled without code, killed, forked, cut off, traced by others."""

from __future__ import annotations

import json
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from e2e.harness import INSTRUMENT, NO_EXPORT, Receiver, command, eventually, run, run_code, serving
from papyra_otel import Fact, open_log
from papyra_otel import semconv as s
from redis_servers.lab import Lab
from redis_servers.server import Server

SECRET = "sesam-42"
APP = """
import pykka
class Echo(pykka.ThreadingActor):
    def on_receive(self, message):
        if message == "crash":
            raise ValueError("odd")
        return message
echo = Echo.start()
print(echo.ask("hello"))
echo.tell("crash")
try:
    echo.ask("late", timeout=5)
except pykka.ActorDeadError:
    print("dead")
"""
BEGIN = """
import os, sys, threading, papyra_otel
from papyra_otel import Actor
actor = Actor(system="s", type="T", address="s/1")
def enable(**more):
    return papyra_otel.enable(sys.argv[1], runtimes=(), system="s", **more)
"""


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.server(options={"appendonly": True}, password=SECRET)


def stored(url: str, **query: object) -> list[Fact]:
    with open_log(url) as log:
        return [entry.fact for entry in log.read(**query)]


def started(url: str) -> dict[str, list[int]]:
    """Return the numbers of the actors' starts by writer."""
    found: dict[str, list[int]] = {}
    for fact in stored(url, name=s.ACTOR_STARTED):
        found.setdefault(fact.writer or "", []).append(fact.seq or 0)
    return found


def sealed(server: Server, tag: str = "s") -> list[bool]:
    fence = server.client().hgetall(f"papyra:{{{tag}}}:fence")
    return [value.split()[6] == b"1" for value in fence.values()]


def instrumented(folder: Path, url: str, *flags: str, app: str = APP, **env: str):
    (folder / "app.py").write_text(app, "utf-8")
    flags = (f"--papyra_log={url}", "--papyra_system=shop", *flags)
    return run(command(folder / "app.py", instrument=True, flags=flags), cwd=folder, env={**NO_EXPORT, **env})


# --- without code ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_instrumented_program_is_recorded_and_observed(
    server: Server, tmp_path: Path, receiver: Receiver
) -> None:
    done = instrumented(tmp_path, server.url, **receiver.environment)
    assert (done.stdout, done.returncode) == ("hello\ndead\n", 0), done.stderr
    names = [fact.name for fact in stored(server.url)]
    for name in (s.ACTOR_STARTED, s.ACTOR_EXCEPTION, s.ACTOR_STOPPED, s.DEAD_LETTER_CAPTURED):
        assert name in names
    forwarded = {record.name for record in receiver.records()}
    assert {s.ACTOR_EXCEPTION, s.LOG_OPENED, s.LOG_SEALED} <= forwarded
    assert all(sealed(server, "shop"))
    marks = [record for record in receiver.records() if record.name in {s.LOG_OPENED, s.LOG_SEALED}]
    assert {mark.attributes[s.BACKEND_TYPE] for mark in marks} == {"redis"}
    records = receiver.points(s.PERSISTENCE_RECORDS)
    assert {point.attributes[s.BACKEND_TYPE] for point in records} == {"redis"}
    assert sum(point.value for point in records) > 0
    assert [point.value for point in receiver.points(s.QUEUE_CAPACITY)] == [10_000]
    told = [
        done.stderr,
        done.stdout,
        repr(stored(server.url)),
        repr(receiver.records()),
        repr(receiver.metrics),
    ]
    assert SECRET not in "".join(told)


@pytest.mark.slow
def test_doctor_and_the_other_verbs_know_the_log(server: Server, tmp_path: Path) -> None:
    assert instrumented(tmp_path, server.url).returncode == 0
    for verb in ("doctor", "facts", "stats"):
        done = run([sys.executable, "-m", "papyra_otel", verb, "--log", server.url, "--json"], cwd=tmp_path)
        assert done.returncode == 0, f"{verb}: {done.stderr}{done.stdout}"
        assert SECRET not in done.stdout + done.stderr
    done = run([sys.executable, "-m", "papyra_otel", "doctor", "--log", server.url], cwd=tmp_path)
    assert "facts" in done.stdout
    assert "folder" not in done.stdout
    assert SECRET not in done.stdout + done.stderr
    server.kill()
    done = run([sys.executable, "-m", "papyra_otel", "doctor", "--log", server.url], cwd=tmp_path)
    assert done.returncode == 1
    assert "see whether the server runs" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://:{secret}@127.0.0.1:{port}0", "is not host or host:port"),
        ("redis://:{secret}@127.0.0.1:1", "see whether the server runs"),
        ("redis://:x{secret}@127.0.0.1:{port}", "correct user and password"),
        ("rediz://:{secret}@127.0.0.1:{port}", "no backend for 'rediz'"),
        ("redis://:{secret}@127.0.0.1:{port}?durabilty=aof", "is not an option"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_the_program_runs(
    server: Server, tmp_path: Path, url: str, wanted: str
) -> None:
    wrong = url.format(secret=SECRET, port=server.port)
    begun = time.monotonic()
    done = instrumented(tmp_path, wrong)
    assert (done.stdout, done.returncode) == ("hello\ndead\n", 0), done.stderr
    assert time.monotonic() - begun < 30
    first, *more = [line for line in done.stderr.splitlines() if line.startswith("papyra-otel: ")]
    assert wanted in first
    assert [line for line in more if "facts could not be written" in line] == more[-1:]
    assert len(more) <= 1
    assert SECRET not in done.stderr
    refused = instrumented(tmp_path, wrong, "--papyra_startup=fail")
    assert SECRET not in refused.stderr
    if "no backend" in wanted or "is not" in wanted:
        return
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert wanted in refused.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("opentelemetry.configuration") is None, reason="opentelemetry-configuration is not installed"
)
def test_a_configuration_file_names_the_log_and_the_spill(server: Server, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    (tmp_path / "otel.yaml").write_text(
        "file_format: '1.0'\ninstrumentation/development:\n  python:\n    pykka:\n"
        f"      log: {server.url}\n      spill: {tmp_path}/spill\n      write: queued\n",
        "utf-8",
    )
    env = {"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml")}
    done = run([INSTRUMENT, sys.executable, str(tmp_path / "app.py")], cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == ("hello\ndead\n", 0), done.stderr
    assert s.ACTOR_STARTED in {fact.name for fact in stored(server.url)}
    assert (tmp_path / "spill").is_dir()


# --- ends ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_killed_in_an_outage_loses_nothing_that_was_spilled(server: Server, tmp_path: Path) -> None:
    code = BEGIN + (
        "recording = enable(spill=sys.argv[2])\n"
        "recording.recorder.started(actor); recording.flush(); print('up', flush=True)\n"
        "sys.stdin.readline()\n"
        "for _ in range(20_000): recording.recorder.started(actor)\n"
        "print('recorded', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    script = tmp_path / "program.py"
    script.write_text(code, "utf-8")
    url = f"{server.url}?timeout=300ms&connect_timeout=300ms&wait_timeout=100ms"
    spill = tmp_path / "spill"
    with serving([sys.executable, str(script), url, str(spill)], cwd=tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        server.pause()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "recorded\n"
        eventually(lambda: _spilled(spill) == 20_000)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    server.resume()
    run_code(BEGIN + "enable(spill=sys.argv[2])\n" + _UNTIL_EMPTY, url, spill, cwd=tmp_path)
    (numbers,) = started(server.url).values()
    assert numbers == list(range(20_001))
    assert list(spill.rglob("*.ndjson*")) == []
    assert list(spill.glob(".alive-*")) == []


_UNTIL_EMPTY = """
import time
from pathlib import Path
until = time.monotonic() + 20
while list(Path(sys.argv[2]).rglob("*.ndjson")) and time.monotonic() < until:
    time.sleep(0.01)
"""


def _spilled(root: Path) -> int:
    return sum(path.read_bytes().count(b'"name":"papyra.actor.started"') for path in root.rglob("*.ndjson"))


@pytest.mark.slow
def test_a_hanging_server_does_not_keep_a_program_from_ending(server: Server, tmp_path: Path) -> None:
    code = BEGIN + (
        "import os, signal, time\nrecording = enable()\nrecording.recorder.started(actor)\nrecording.flush()\n"
        "os.kill(int(sys.argv[2]), signal.SIGSTOP)\n"
        "for _ in range(3000): recording.recorder.started(actor)\nprint(time.time())\n"
    )
    url = f"{server.url}?timeout=1s&connect_timeout=1s&wait_timeout=100ms"
    done = run_code(code, url, server.pid, cwd=tmp_path)
    took = time.time() - float(done.stdout)
    server.resume()
    assert took < 5
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("papyra-otel: ")]
    assert "3000 facts could not be written to redis://" in line
    assert SECRET not in done.stderr


@pytest.mark.slow
def test_threads_and_exit_handlers_at_the_end_are_recorded(server: Server, tmp_path: Path) -> None:
    code = BEGIN + (
        "import atexit\n"
        "atexit.register(lambda: recording.recorder.started(actor))\n"  # runs after ours
        "recording = enable()\n"
        "atexit.register(lambda: recording.recorder.started(actor))\n"  # runs before ours
        "gate = threading.Event()\n"
        "def late():\n    gate.wait()\n    recording.recorder.started(actor)\n"
        "threading.Thread(target=late).start()\n"
        "recording.recorder.started(actor)\n"
        "threading.Timer(0.2, gate.set).start()\n"
    )
    done = run_code(code, server.url, cwd=tmp_path)
    assert done.stderr == ""
    (numbers,) = started(server.url).values()
    assert numbers == [0, 1, 2, 3]


@pytest.mark.slow
def test_forked_children_record_as_writers_of_their_own(server: Server, tmp_path: Path) -> None:
    code = BEGIN + (
        "import warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"  # from 3.12 on: there are threads, and a fork
        "recording = enable()\n"
        "for _ in range(10): recording.recorder.started(actor)\n"
        "pids = []\n"
        "for _ in range(3):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        for _ in range(20): recording.recorder.started(actor)\n"
        "        sys.exit(0)\n"
        "    pids.append(pid)\n"
        "for pid in pids: assert os.waitpid(pid, 0)[1] == 0\n"
        "recording.recorder.started(actor)\n"
    )
    done = run_code(code, server.url, cwd=tmp_path)
    assert done.stderr == ""
    assert sorted(map(len, started(server.url).values())) == [11, 20, 20, 20]
    assert all(numbers == list(range(len(numbers))) for numbers in started(server.url).values())
    assert all(sealed(server))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_are_recorded_to_their_end(
    server: Server, tmp_path: Path, method: str
) -> None:
    code = BEGIN + (
        "import multiprocessing\n"
        "def work():\n"
        "    recording = enable()\n"
        "    for _ in range(20): recording.recorder.started(actor)\n"
        "if __name__ == '__main__':\n"
        "    recording = enable()\n"
        "    recording.recorder.started(actor)\n"
        "    context = multiprocessing.get_context(sys.argv[2])\n"
        "    children = [context.Process(target=work) for _ in range(2)]\n"
        "    for child in children: child.start()\n"
        "    for child in children: child.join()\n"
        "    assert [child.exitcode for child in children] == [0, 0]\n"
    )
    done = run_code(code, server.url, method, cwd=tmp_path)
    assert done.stderr == ""
    assert sorted(map(len, started(server.url).values())) == [1, 20, 20]
    assert all(sealed(server))


# --- others' instrumentation -----------------------------------------------------------------------------

TRACED = """
import json, sys
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
RedisInstrumentor().instrument()
native = sys.argv[2] == "native"
if native:
    from redis.observability import OTelConfig, get_observability_instance
    from redis.observability.config import MetricGroup
    groups = list(MetricGroup)
    config = OTelConfig(metric_groups=groups)
    get_observability_instance().init(config)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["instrumentor", "native"])
def test_our_traffic_is_neither_traced_nor_measured_as_the_applications(
    server: Server, tmp_path: Path, mode: str
) -> None:
    if mode == "native" and find_spec("redis.observability") is None:
        pytest.skip("this redis-py measures nothing by itself")
    pytest.importorskip("opentelemetry.instrumentation.redis")
    code = (
        TRACED
        + BEGIN
        + (
            "import redis\n"
            "def measured():\n"
            "    data = reader.get_metrics_data()\n"
            "    return {} if data is None else {m.name: [dict(p.attributes) for p in m.data.data_points]\n"
            "        for r in data.resource_metrics for sc in r.scope_metrics if sc.scope.name != 'papyra_otel'\n"
            "        for m in sc.metrics}\n"
            "recording = enable(startup='ignore')\n"
            "for _ in range(100): recording.recorder.started(actor)\n"
            "recording.flush(); recording._beat()\n"
            "ours = [len(spans.get_finished_spans()), measured()]\n"
            "client = redis.Redis.from_url(sys.argv[1]); client.set('users', 1); client.close()\n"
            "print(json.dumps([ours, [span.name for span in spans.get_finished_spans()], measured()]))\n"
        )
    )
    done = run_code(code, server.url, mode, cwd=tmp_path)
    (count, before), names, after = json.loads(done.stdout.splitlines()[-1])
    assert count == 0
    assert before == {}
    assert "SET" in names
    if mode == "native":
        assert after != {}
    assert len(started(server.url)) == 1
