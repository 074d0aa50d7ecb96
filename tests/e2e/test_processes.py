"""However processes begin and end, facts are kept: fork, spawn, signals, exits of every kind."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from e2e.harness import run_code, segments, stored
from papyra_otel import semconv as s

pytestmark = pytest.mark.slow

BEGIN = """
import atexit, os, signal, sys, threading
import papyra_otel
from papyra_otel import Actor

root = sys.argv[1]

def note(who, n=0):
    actor = Actor(system="s", type="T", address=f"{who}/{n}")
    papyra_otel.plugin.current().recorder.started(actor, incarnation=n)

def enable(**more):
    return papyra_otel.enable(f"file:{root}", runtimes=(), **more)
"""


def whose(root: Path) -> Counter[str]:
    """Count the facts by the name before the slash in their actor's address."""
    return Counter((fact.actor or "").partition("/")[0] for fact in stored(root, name=s.ACTOR_STARTED))


def test_fifty_forks_beside_threads_that_emit_lose_nothing_and_never_hang(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "from papyra_otel import semconv as s\n"
        "recording = enable(); go_on = True; counts = {}\n"
        "def busy(name):\n"
        "    n = 0\n"
        "    while go_on:\n"
        "        note(name, n); n += 1\n"
        "    counts[name] = n\n"
        "threads = [threading.Thread(target=busy, args=(f'thread{i}',), daemon=True) for i in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "for i in range(50):\n"
        "    note('parent', i)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.alarm(20)\n"
        "        try:\n"
        "            alive = recording._counters.total(s.ACTOR_STARTS)\n"
        "            if alive: os._exit(1)\n"
        "            for n in range(3): note(f'child{i}', n)\n"
        "            os._exit(recording._counters.total(s.ACTOR_STARTS) + 40)\n"
        "        finally:\n"
        "            os._exit(2)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    assert code == 43, code\n"
        "go_on = False\n"
        "for thread in threads: thread.join()\n"
        "assert recording._counters.total(s.ACTOR_STARTS) == 50 + sum(counts.values())\n"
        "print(counts['thread0'], counts['thread1'])\n"
    )
    done = run_code(code, root, cwd=tmp_path)
    first, second = map(int, done.stdout.split())
    expected = {"thread0": first, "thread1": second, "parent": 50} | {f"child{i}": 3 for i in range(50)}
    assert whose(root) == expected
    facts = stored(root, name=s.ACTOR_STARTED)
    writers = {fact.writer for fact in facts}
    assert len(writers) == 51
    for writer in writers:  # no hole, no repetition: each process numbered its own
        assert sorted(f.seq or 0 for f in facts if f.writer == writer) == list(
            range(sum(f.writer == writer for f in facts))
        )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_record_and_seal(method: str, tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "import multiprocessing\n"
        "def work(i):\n"
        "    enable()\n"
        "    for n in range(10): note(f'child{i}', n)\n"
        "if __name__ == '__main__':\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    enable(); note('parent')\n"
        "    children = [context.Process(target=work, args=(i,)) for i in range(3)]\n"
        "    for child in children: child.start()\n"
        "    for child in children: child.join()\n"
        "    assert [child.exitcode for child in children] == [0, 0, 0]\n"
        "    note('parent', 1)\n"
    )
    run_code(code, root, cwd=tmp_path)
    assert whose(root) == {"parent": 2, "child0": 10, "child1": 10, "child2": 10}
    assert len(segments(root)) == 4
    assert all(segments(root).values())


def test_after_a_fork_the_parents_segment_is_still_the_parents(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "enable(); note('parent', 0)\n"
        "if os.fork() == 0:\n"
        "    note('child'); sys.exit(0)\n"
        "os.wait(); note('parent', 1)\n"
    )
    run_code(code, root, cwd=tmp_path)
    assert whose(root) == {"parent": 2, "child": 1}
    assert list(segments(root).values()) == [True, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_ends_the_process_costs_the_seal_and_no_fact(number: int, tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "enable()\n"
        "for n in range(100): note('main', n)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"  # whoever started us may have it ignored
        f"os.kill(os.getpid(), {int(number)}); signal.pause()\n"
    )
    run_code(code, root, cwd=tmp_path, code_of=-number)
    assert whose(root) == {"main": 100}
    assert list(segments(root).values()) == [False]


@pytest.mark.parametrize(
    ("ending", "code_of"),
    [("pass", 0), ("sys.exit(5)", 5), ("raise KeyError('oh')", 1), ("raise KeyboardInterrupt", -2)],
)
def test_an_orderly_end_seals(ending: str, code_of: int, tmp_path: Path) -> None:
    root = tmp_path / "facts"
    run_code(BEGIN + f"enable(); note('main')\n{ending}\n", root, cwd=tmp_path, code_of=code_of)
    assert whose(root) == {"main": 1}
    assert list(segments(root).values()) == [True]


def test_os_exit_loses_nothing(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    run_code(BEGIN + "enable()\nfor n in range(100): note('main', n)\nos._exit(0)\n", root, cwd=tmp_path)
    assert whose(root) == {"main": 100}


def test_daemon_threads_that_emit_to_the_very_end_lose_nothing_they_know_of(tmp_path: Path) -> None:
    root, known = tmp_path / "facts", tmp_path / "known"
    code = BEGIN + (
        "import mmap, struct\n"
        "enable(); started = threading.Event()\n"
        "fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT); os.truncate(fd, 8); page = mmap.mmap(fd, 8)\n"
        "def busy():\n"
        "    n = 0\n"
        "    while True:\n"
        "        note('daemon', n); n += 1\n"
        "        struct.pack_into('q', page, 0, n)\n"
        "        if n == 100: started.set()\n"
        "threading.Thread(target=busy, daemon=True).start()\n"
        "started.wait(); sys.exit(4)\n"
    )
    done = run_code(code, root, known, cwd=tmp_path, code_of=4)
    assert done.stderr == ""
    acked = int.from_bytes(known.read_bytes(), "little")
    assert acked >= 100
    assert whose(root)["daemon"] - acked in {0, 1}


def test_facts_of_exit_handlers_before_and_after_ours_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "atexit.register(note, 'after-ours')\n"  # last in, first out
        "enable(); note('main')\n"
        "atexit.register(note, 'before-ours')\n"
    )
    run_code(code, root, cwd=tmp_path)
    assert whose(root) == {"main": 1, "before-ours": 1, "after-ours": 1}


def test_we_end_before_a_provider_that_waits_for_its_collector(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "from pathlib import Path\n"
        "from opentelemetry._logs import set_logger_provider\n"
        "from opentelemetry.sdk._logs import LoggerProvider\n"
        "class Slow:\n"
        "    def on_emit(self, data): pass\n"
        "    def force_flush(self, timeout_millis=0): return True\n"
        "    def shutdown(self):\n"  # what a dead collector would delay
        "        last = next(Path(root).rglob('*.ndjson')).read_bytes().splitlines()[-1]\n"
        "        print('sealed' if b'segment.seal' in last else 'open')\n"
        "provider = LoggerProvider(); provider.add_log_record_processor(Slow())\n"
        "set_logger_provider(provider)\n"
        "enable(); note('main')\n"
    )
    assert run_code(code, root, cwd=tmp_path).stdout == "sealed\n"


def test_no_audit_comes_once_the_provider_may_be_shut_down(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "def auditing(): return 'papyra-otel-audit' in [t.name for t in threading.enumerate()]\n"
        "atexit.register(lambda: print(auditing()))\n"  # in the place of the SDK's own exit handler
        "papyra_otel.enable(f'file:{root}', runtimes=('pykka',)); print(auditing())\n"
    )
    assert run_code(code, root, cwd=tmp_path).stdout == "True\nFalse\n"


def test_an_endpoint_that_is_dead_loses_nothing_of_ours(tmp_path: Path) -> None:
    root = tmp_path / "facts"
    code = BEGIN + (
        "from opentelemetry._logs import set_logger_provider\n"
        "from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter\n"
        "from opentelemetry.sdk._logs import LoggerProvider\n"
        "from opentelemetry.sdk._logs.export import BatchLogRecordProcessor\n"
        "provider = LoggerProvider()\n"
        "dead = OTLPLogExporter(endpoint='http://127.0.0.1:9/v1/logs', timeout=1)\n"
        "provider.add_log_record_processor(BatchLogRecordProcessor(dead))\n"
        "set_logger_provider(provider)\n"
        "enable()\n"
        "for n in range(5000): note('main', n)\n"
    )
    run_code(code, root, cwd=tmp_path)
    assert whose(root) == {"main": 5000}
    assert list(segments(root).values()) == [True]
