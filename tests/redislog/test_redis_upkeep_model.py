"""Random lives of a stream against a plain model: appended, deleted, trimmed, copied, spoilt, scanned, recovered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papyra_otel.facts import FactKind
from papyra_otel.reports import ANOMALY_SEVERITIES
from redis_servers.server import Server
from redislog.workshop import Fields, Workshop, event, flipped, reassembled, workshop

_WHERE = st.integers(0, 10**6)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("new writer"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["delete", "copy", "bit", "byte end", "cut", "strange"]), _WHERE),
        st.tuples(st.just("trim"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["quarantine", "repair", "remember"]), st.just(0)),
        st.tuples(st.just("fence"), _WHERE),
    ),
    min_size=2,
    max_size=12,
)


class _Life:
    """What is done to the log. *lines* are all that were appended: who is left whole must be found."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._log = shop.open()
        self._count = 0
        self._lines: dict[bytes, int | None] = {}  # without line end; the number of the fact, None of ours

    def close(self) -> None:
        self._log.close()

    def step(self, name: str, where: int) -> None:
        if name in {"append", "new writer"}:
            if name == "new writer":
                self._begin_anew()
            self._log.append([event(self._count + n) for n in range(where)])
            self._learn(where)
        elif name in {"quarantine", "repair"}:
            self._recover(name)
        elif name == "remember":
            self._log.scan(incremental=True)
            self._log.remember()
        elif name == "fence":
            if fields := sorted(self._shop.client.hkeys(self._shop.tag.fence)):
                self._begin_anew()  # a living writer would send again what it remembers
                self._shop.client.hdel(self._shop.tag.fence, fields[where % len(fields)])
        elif name == "trim":
            self._shop.client.xtrim(self._shop.events, maxlen=max(len(self._shop.entries()) - where, 0))
        elif entries := self._shop.entries():
            self._harm(name, where % len(entries), where)

    def _begin_anew(self) -> None:
        self._log.close()
        self._log = self._shop.open()

    def _learn(self, count: int) -> None:
        for _, fields in self._shop.entries()[-count:]:
            self._lines[fields[b"data"][:-1]] = self._count
            self._count += 1

    def _harm(self, name: str, at: int, where: int) -> None:
        entry_id, fields = self._shop.entries()[at]
        if name == "delete":
            self._shop.client.xdel(self._shop.events, entry_id)
        elif name == "copy":
            self._shop.client.xadd(self._shop.events, fields)
        elif len(line := fields.get(b"data", b"")) > 2:
            new = {b"other": line} if name == "strange" else {b"data": _spoilt(name, line, where)}

            def change(entries: list[tuple[bytes, Fields]]) -> None:
                entries[at] = entry_id, new

            self._shop.rebuild(change)
            # no command changes an entry in place, so incremental scans do not look for that (0030)
            self._shop.client.hdel(self._shop.tag.meta, "verified:event")

    def whole(self) -> list[bytes]:
        """Return the lines that are good as they stand, those that corrections put there, too; with their ends."""
        found = [fields[b"data"] for _, fields in self._shop.entries() if fields.keys() == {b"data"}]
        meta = self._shop.client.hgetall(self._shop.tag.meta)
        found += [line for name, line in meta.items() if name.startswith(b"restored:")]
        return [line for line in found if line.removesuffix(b"\n") in self._lines]

    def good(self) -> set[int]:
        numbers = (self._lines[line.removesuffix(b"\n")] for line in self.whole())
        return {number for number in numbers if number is not None}

    def _recover(self, mode: str) -> None:
        before, entries = self.good(), reassembled(self._shop)
        report = self._log.recover(mode)
        assert report.remaining.healthy, report.remaining.anomalies
        for _, fields in self._shop.entries():
            if b"papyra.log.recovered" in fields[b"data"]:
                self._lines.setdefault(fields[b"data"][:-1], None)
        assert before <= self.good() == set(self._shop.read())
        assert reassembled(self._shop)[: len(entries)] == entries
        stats, scan = self._log.stats().streams, self._log.scan().streams
        assert {kind: (of.records, of.bytes) for kind, of in stats.items()} == {
            kind: (of.records, of.size_bytes) for kind, of in scan.items()
        }
        again = self._log.recover(mode)
        assert (again.changed, again.recorded) == (False, ())

    def check(self) -> None:
        report = self._log.scan()
        scan = report.streams[FactKind.EVENT]
        whole = self.whole()
        assert (scan.records, scan.good_bytes) == (len(whole), sum(map(len, whole)))
        assert scan.size_bytes == scan.good_bytes + scan.damaged_bytes
        with self._shop.open() as other:
            found = other.scan(incremental=True)
        told = {name: n for name, n in report.counts.items() if ANOMALY_SEVERITIES[name] != "INFO"}
        again = {name: n for name, n in found.counts.items() if ANOMALY_SEVERITIES[name] != "INFO"}
        assert (again, found.streams) == (told, report.streams)  # what is harmless is not told again


def _spoilt(name: str, line: bytes, where: int) -> bytes:
    if name == "bit":
        return flipped(line, where % (len(line) - 1), 1 << where % 8)
    return line[:-1] if name == "byte end" else line[: where % (len(line) - 1)]


@contextmanager
def _shop_on(server: Server) -> Iterator[Workshop]:
    with closing(server.new_client()) as client:
        client.flushdb()
    yield from workshop(server)


@pytest.mark.slow
@given(steps=_STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_life(redis_server: Server, steps: list[tuple[str, int]]) -> None:
    with _shop_on(redis_server) as shop, closing(_Life(shop)) as life:
        for name, where in [("append", 3), *steps]:
            life.step(name, where)
            life.check()
        life.step("quarantine", 0)
        assert set(shop.read()) == life.good()
