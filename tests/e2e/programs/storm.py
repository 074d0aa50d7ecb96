"""A storm of kills: three writers, a tailing reader and a janitor on one log, and SIGKILL at random moments.

Arguments: the folder of the log, how many kills, a seed. Prints one JSON object: what was done, and under
``wrong`` everything that should not have been seen. The delays before kills are the attack, nothing waits for
a condition by sleeping.
"""

# ruff: noqa: T201 - what it prints is what the test asserts

import contextlib
import json
import os
import random
import select
import signal
import sys
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path

from papyra_otel import Fact, FactKind
from papyra_otel.log.contract import LogOptions
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.fs import OS, OsFileSystem

root, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SYSTEM, NAME = "storm", "storm.fact"
WRITERS = 3
SEGMENT_BYTES = 512 << 10
KEPT = 2000
RETENTION = f"events={KEPT}"
DELAY_SECONDS = 0.008
BATCHES = (1, 1, 2, 6, 20, 50)
BATCHES_A_ROUND = 3  # nobody writes on while the last kill is looked into
ROUNDS_MAX = 10  # of a life: what all write meanwhile stays well below KEPT, so that nothing of it is removed
FILL_BYTES_MAX = 60_000
JANITOR_EVERY = 12  # every so many kills it is the janitor's turn
TEARING_SHARE = 0.4
# What a killed process may leave; killed between a line and its line end, the former without the latter.
EXPLAINED = {"torn_tail", "lost_newline", "unclean_shutdown", "tmp_leftover"}


def fill_of(life, n):
    """The text of fact *n* of a life, from nothing to 60 KB, always the same."""
    size = int(FILL_BYTES_MAX ** (zlib.crc32(b"%d-%d" % (life, n)) / 0xFFFFFFFF)) - 1
    own = f"{life}-{n} "
    return (own * (size // len(own) + 1))[:size]


def options(dice):
    return LogOptions(fsync=dice.choice(("never", "interval")))


# --- processes ----------------------------------------------------------------------------------------


class Tearing(OsFileSystem):
    """Dies inside its N-th write, when part of the bytes is there: a torn tail for certain."""

    def __init__(self, dice):
        self.dice, self.left = dice, dice.randrange(1, 6)

    def write(self, fd, data, /):
        self.left -= 1
        if self.left == 0:
            whole_but_for_its_end = len(data) - 1
            os.write(fd, data[: self.dice.choice((self.dice.randrange(1, len(data)), whole_but_for_its_end))])
            os.kill(os.getpid(), signal.SIGKILL)
        return os.write(fd, data)


def write_for_ever(life, tearing, allowed, acknowledge):
    """Append as many batches as allowed; after each, say the number of its last fact."""
    dice = random.Random(f"{seed}-{life}")
    fs = Tearing(dice) if tearing else OS
    log = FileLog(root, fs=fs, options=options(dice), segment_bytes_max=SEGMENT_BYTES)
    os.write(acknowledge, b"%s\n" % log._identities.writer(SYSTEM).encode())
    n = 0
    while os.read(allowed, 1):
        batch = [
            Fact(
                kind=FactKind.EVENT,
                name=NAME,
                time_unix_nano=time.time_ns(),
                system=SYSTEM,
                actor=f"life-{life}",
                attributes={"life": life, "n": each, "fill": fill_of(life, each)},
            )
            for each in range(n, n + dice.choice(BATCHES))
        ]
        log.append(batch)
        n += len(batch)
        os.write(acknowledge, b"%d\n" % (n - 1))


def look_after_it(told, tell):
    """Compact and recover in turn until told to stop."""
    rounds = removed = mended = 0
    log = FileLog(root)
    while not readable(told, 0.001):
        rounds += 1
        removed += log.compact(RETENTION).records_removed
        if rounds % 4 == 0:
            mended += len(log.recover("repair" if rounds % 8 == 0 else "quarantine").rewritten)
        os.write(tell, b"%d %d\n" % (removed, mended))
        removed = mended = 0
    log.close()


def tail(told, tell):
    """Follow the log by cursors and keep which facts were seen; say them when told to stop."""
    seen, wrong, cursor = {}, [], None
    log = FileLog(root)
    last = False
    while not last:
        last = readable(told, 0.005)
        entry = None
        for entry in log.read(kinds=FactKind.EVENT, name=NAME, after=cursor):
            life, n = entry.fact.attributes["life"], entry.fact.attributes["n"]
            numbers = seen.setdefault(life, [])
            if numbers and n <= numbers[-1]:
                wrong.append(f"the reader saw {n} of life {life} after {numbers[-1]}")
            numbers.append(n)
        if entry is not None:
            cursor = entry.cursor
    os.write(tell, json.dumps({"seen": seen, "wrong": wrong[:5]}).encode())


def readable(fd, seconds):
    return bool(select.select([fd], [], [], seconds)[0])


class Process:
    """A forked process with a pipe each way. What it said is still there after its death."""

    def __init__(self, work, *arguments):
        told, self.tell = os.pipe()
        self.told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.tell)  # or the end of the parent's side would never be seen
                os.close(self.told)
                work(*arguments, told, tell)
                code = 0
            finally:
                if code:
                    sys.excepthook(*sys.exc_info())
                os._exit(code)
        os.close(told)
        os.close(tell)

    def kill(self):
        """Kill it; return what it said and how it ended."""
        os.kill(self.pid, signal.SIGKILL)
        return self.listen()

    def stop(self):
        """Tell it to stop; return what it said and how it ended."""
        os.write(self.tell, b".")
        return self.listen()

    def listen(self):
        """Return what it said until its end, and how it ended."""
        os.close(self.tell)
        said = bytearray()
        while more := os.read(self.told, 1 << 16):
            said += more
        os.close(self.told)
        _, status = os.waitpid(self.pid, 0)
        return bytes(said), os.waitstatus_to_exitcode(status)


class Life(Process):
    """One writer from its fork to its death."""

    count = 0

    def __init__(self, dice):
        self.number = Life.count
        Life.count += 1
        self.tearing = dice.random() < TEARING_SHARE
        self.rounds = 0
        self.born_unix_nano = time.time_ns()
        super().__init__(write_for_ever, self.number, self.tearing)

    def go_on(self):
        """Allow it to write for one more round."""
        self.rounds += 1
        with contextlib.suppress(BrokenPipeError):  # it has killed itself already
            os.write(self.tell, b"." * BATCHES_A_ROUND)

    def die(self):
        """Be killed (who tears kills itself); return the writer's id and the last number acknowledged."""
        if self.tearing:
            self.go_on()  # it dies in one of its next writes
            said, code = self.listen()
        else:
            said, code = self.kill()
        lines = said.decode().splitlines()
        ended_well = code == -signal.SIGKILL
        return (lines[0] if lines else None), (int(lines[-1]) if len(lines) > 1 else -1), ended_well


# --- what must hold -----------------------------------------------------------------------------------


class Storm:
    def __init__(self):
        self.dice = random.Random(seed)
        self.log = FileLog(root)
        self.log.prepare()
        self.wrong = []
        self.counts = Counter()
        self.acknowledged = {}
        self.dead = set()
        self.lives = [Life(self.dice) for _ in range(WRITERS)]
        self.janitor = Process(look_after_it)
        self.reader = Process(tail)

    def run(self):
        for number in range(1, kills + 1):
            for life in self.lives:
                life.go_on()
            time.sleep(self.dice.random() * DELAY_SECONDS)  # the attack: at no moment in particular
            if number % JANITOR_EVERY == 0:
                self.count_janitor(*self.janitor.kill(), expected=-signal.SIGKILL)
                self.janitor = Process(look_after_it)
                self.counts["janitor kills"] += 1
            else:
                place = self.next_victim()
                victim = self.lives[place]
                self.bury(victim)
                self.lives[place] = Life(self.dice)
                self.check_life(victim)
            self.check_scan(incremental=True)
        for life in self.lives:
            self.bury(life)
        self.count_janitor(*self.janitor.stop(), expected=0)
        said, code = self.reader.stop()
        self.expect(code == 0, f"the reader ended with {code}")
        self.check_end(json.loads(said) if said else {"seen": {}, "wrong": ["the reader said nothing"]})

    def next_victim(self):
        """Return the place of whoever has lived long enough, or anybody's."""
        old = [place for place, life in enumerate(self.lives) if life.rounds >= ROUNDS_MAX]
        return old[0] if old else self.dice.randrange(WRITERS)

    def bury(self, life):
        writer, last, killed = life.die()
        self.expect(killed, f"life {life.number} ended by itself")
        self.acknowledged[life.number] = last
        self.counts["kills"] += 1
        self.counts["acknowledged"] += last + 1
        if writer is not None:
            self.dead.add(writer)
            self.counts["torn by a short write" if life.tearing else "torn by the kernel"] += torn(writer)

    def count_janitor(self, said, code, *, expected):
        self.expect(code == expected, f"the janitor ended with {code}")
        for line in said.decode().splitlines():
            removed, mended = map(int, line.split())
            self.counts["rounds of the janitor"] += 1
            self.counts["removed"] += removed
            self.counts["mended"] += mended

    def check_life(self, life):
        """Everything that a dead writer had acknowledged can be read, each fact once and as it was."""
        found = []
        for entry in self.log.read(
            kinds=FactKind.EVENT, actor=f"life-{life.number}", since=life.born_unix_nano, newest_first=True
        ):
            fact = entry.fact
            found.append(fact.attributes["n"])
            self.expect(fact.attributes["fill"] == fill_of(life.number, found[-1]), "a fact was altered")
        last = self.acknowledged[life.number]
        self.expect(found == list(range(len(found)))[::-1], f"life {life.number}: holes in {found[:9]}...")
        self.expect(
            last < len(found) <= last + 1 + max(BATCHES),
            f"life {life.number}: {last + 1} acknowledged, {len(found)} there",
        )

    def check_scan(self, *, incremental):
        report = self.log.scan(incremental=incremental)
        self.log.remember()
        self.counts["scans"] += 1
        for anomaly in report.anomalies:
            explained = anomaly.severity == "INFO" or anomaly.type in EXPLAINED
            self.expect(explained, f"unexplained: {anomaly}")

    def check_end(self, reader):
        """The newest 2,000 are there after a last compaction; what is newer than the oldest is whole."""
        self.wrong += reader["wrong"]
        self.check_scan(incremental=False)
        before = self.readable()  # recovery brings back whole lines without line end: too late for the reader
        self.log.recover()
        self.log.compact(RETENTION)
        self.log.recover()
        report = self.log.scan()
        self.expect(report.healthy, f"not healthy at the end: {report.counts}, {report.anomalies[:3]}")
        there, oldest = {}, {}
        facts = [entry.fact for entry in self.log.read(kinds=FactKind.EVENT)]
        for fact in facts:
            if fact.name == NAME:
                life, n = fact.attributes["life"], fact.attributes["n"]
                there.setdefault(life, []).append(n)
                oldest.setdefault(life, n)
                self.expect(fact.attributes["fill"] == fill_of(life, n), "a fact was altered")
        self.expect(len(facts) >= min(KEPT, self.counts["acknowledged"]), f"only {len(facts)} are kept")
        for life, numbers in there.items():
            last = self.acknowledged[life]
            whole = list(range(numbers[0], numbers[0] + len(numbers)))
            self.expect(numbers == whole, f"life {life}: holes in {numbers[:9]}...")
            self.expect(numbers[-1] >= last, f"life {life}: {last} acknowledged, the last is {numbers[-1]}")
            missed = before[life].intersection(numbers).difference(reader["seen"].get(str(life), ()))
            self.expect(not missed, f"life {life}: the reader missed {sorted(missed)[:9]}")
        self.check_hidden(facts, there)
        self.counts["seen by the reader"] = sum(map(len, reader["seen"].values()))
        self.counts["there at the end"] = len(facts)

    def readable(self):
        """Return the numbers of the facts that can be read, of each life."""
        found = defaultdict(set)
        for entry in self.log.read(kinds=FactKind.EVENT, name=NAME):
            found[entry.fact.attributes["life"]].add(entry.fact.attributes["n"])
        return found

    def check_hidden(self, facts, there):
        """A life of which nothing is left ended before the oldest fact that is; no younger one is missing."""
        gone = [life for life, last in self.acknowledged.items() if last >= 0 and life not in there]
        if gone and there:
            self.expect(max(gone) < max(there), f"life {max(gone)} is gone, {sorted(there)} are not")

    def expect(self, holds, text):
        if not holds:
            self.wrong.append(text)


def torn(writer):
    """Say whether the newest segment of a dead writer ends in the middle of a line."""
    try:
        newest = max(Path(root, SYSTEM, "events").glob(f"*-{writer}-*.ndjson"))
        return newest.read_bytes()[-1:] != b"\n"
    except (FileNotFoundError, ValueError):  # the janitor was quicker, or it was never born
        return False


if __name__ == "__main__":
    storm = Storm()
    storm.run()
    print(json.dumps({"wrong": storm.wrong[:20], "counts": storm.counts}))
