"""Reading a stream page by page, once for all writers that have facts in it.

Each writer's facts are read as a source of their own (``source``), but all of one kind stand in the same stream.
Readers go through it about side by side, so what was fetched for one is kept for the others: the last few pages.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import redis

from papyra_otel.log.redis.keys import EntryId
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Reply, Wire

__all__ = ["Pages", "StoredEntry", "line_of", "parse_entries", "writer_of"]

_FIRST_COUNT = 32
_COUNT_MAX = 256  # of lines up to 1 MiB: what one reply may take
_PAGE_BYTES = 1 << 20
_KEPT_BYTES_MAX = 8 << 20
_MARKER = b'{"v":1,"writer":"'
_WRITER = slice(len(_MARKER), len(_MARKER) + 16)
_NEWER = re.compile(rb'\{"v":\d{1,9},"writer":"([0-9a-f]{16})"')


class StoredEntry(NamedTuple):
    """One entry of a stream as it is stored."""

    id: EntryId
    fields: tuple[bytes, ...]  # name, value, name, value, ...


class _Page(NamedTuple):
    """What lies between two places, by writer; ascending."""

    after: EntryId
    until: EntryId
    by_writer: Mapping[bytes, list[tuple[EntryId, bytes]]]
    size_bytes: int


def line_of(entry: StoredEntry) -> bytes | None:
    """Return the line in *entry*, or None if it is no entry of ours."""
    return entry.fields[1] if len(entry.fields) == 2 and entry.fields[0] == b"data" else None  # noqa: PLR2004 - a pair


def writer_of(line: bytes) -> bytes:
    """Return what stands where a line's writer stands, whatever the line's version."""
    newer = None if line.startswith(_MARKER) else _NEWER.match(line)
    return line[_WRITER] if newer is None else newer[1]


def parse_entries(reply: Reply) -> list[StoredEntry]:
    """Read the reply of XRANGE and its like. Entries that were deleted (nil) are left out."""
    return [
        StoredEntry(EntryId.parse(entry_id), tuple(fields))
        for entry_id, fields in filter(None, reply)
        if fields is not None
    ]


class Pages:
    """The pages of one stream, fetched as needed. One reading at a time; not thread-safe.

    *restored* are lines that a repair put in the place of damaged entries: identifier and line, ascending.
    """

    def __init__(
        self, wire: Wire, key: str, shown: str, restored: Sequence[tuple[EntryId, bytes]] = ()
    ) -> None:
        self._wire = wire
        self._key = key
        self._shown = shown
        self._restored = list(restored)
        self._count = {False: _FIRST_COUNT, True: _FIRST_COUNT}
        self._kept: OrderedDict[EntryId, _Page] = OrderedDict()  # by the end, in order of use
        self._kept_bytes = 0

    def after(self, place: EntryId, writer: bytes) -> tuple[list[tuple[EntryId, bytes]], EntryId | None]:
        """Return *writer*'s lines in the page past *place*, and where that page ends; None at the end of the stream."""
        page = self._page(lambda page: page.after <= place < page.until) or self._fetched(
            place, backward=False
        )
        if page is None:
            return [], None
        lines = page.by_writer.get(writer, [])
        return lines[bisect_right(lines, place, key=lambda item: item[0]) :], page.until

    def before(self, place: EntryId, writer: bytes) -> tuple[list[tuple[EntryId, bytes]], EntryId | None]:
        """Return *writer*'s lines in the page that ends just before *place*, ascending, and the place before that."""
        page = self._page(lambda page: page.after.next() < place <= page.until.next()) or self._fetched(
            place, backward=True
        )
        if page is None:
            return [], None
        lines = page.by_writer.get(writer, [])
        return lines[: bisect_left(lines, place, key=lambda item: item[0])], page.after.next()

    def _page(self, holds: Callable[[_Page], bool]) -> _Page | None:
        for until, page in reversed(self._kept.items()):
            if holds(page):
                self._kept.move_to_end(until)
                return page
        return None

    def _fetched(self, place: EntryId, *, backward: bool) -> _Page | None:
        count = self._count[backward]
        if backward:
            command = ("XREVRANGE", self._key, f"({place}", "-", "COUNT", count)
        else:
            command = ("XRANGE", self._key, f"({place}", "+", "COUNT", count)
        (reply,) = self._wire.send(self._key, [command])
        if isinstance(reply, redis.RedisError):
            if "WRONGTYPE" in str(reply):
                return None  # there is nothing to be read; a scan tells, a recovery moves it away
            raise unavailable(self._shown, reply)
        entries = parse_entries(reply)
        if backward:
            entries.reverse()
        page = self._new_page(entries, place, backward=backward, last=len(reply) < count)
        if page is None:
            return None
        fitting = _PAGE_BYTES * len(entries) // max(page.size_bytes, 1)
        self._count[backward] = max(1, min(2 * count, fitting, _COUNT_MAX))
        self._keep(page)
        return page

    def _new_page(
        self, entries: list[StoredEntry], place: EntryId, *, backward: bool, last: bool
    ) -> _Page | None:
        """Make a page of *entries*, with what was restored among them; beyond the *last* ones, all that was."""
        after, until = place, place
        if backward:
            until = place.previous()
            after = EntryId(0, 0) if last else entries[0].id.previous()
        else:
            until = entries[-1].id if entries else place
            if last and self._restored:
                until = max(until, self._restored[-1][0])
        lines = [(entry.id, line) for entry in entries if (line := line_of(entry)) is not None]
        restored = [item for item in self._restored if after < item[0] <= until]
        if not entries and not restored:
            return None
        if restored:
            lines = sorted([*lines, *restored])
        by_writer: dict[bytes, list[tuple[EntryId, bytes]]] = {}
        for item in lines:
            by_writer.setdefault(writer_of(item[1]), []).append(item)
        return _Page(after, until, by_writer, sum(len(line) for _, line in lines))

    def _keep(self, page: _Page) -> None:
        self._kept[page.until] = page
        self._kept_bytes += page.size_bytes
        while self._kept_bytes > _KEPT_BYTES_MAX and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.size_bytes
