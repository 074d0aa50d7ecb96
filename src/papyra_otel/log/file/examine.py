"""Every byte of a segment, accounted for: good lines, damage, what is still being written. Works on bytes.

A line that does not verify is searched for whole good records (one glued to a fragment, two that lost the
line end between them): the marker every line begins with is where to look, the JSON says where the record would
end, the checksum says what to believe. Memory is bounded by the longest line there can be, however long the damage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NamedTuple, Protocol, cast

from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import LINE_BYTES_MAX, SEGMENT_OPEN, SEGMENT_SEAL, Outline, outline

__all__ = [
    "DAMAGED",
    "FACT",
    "HEADER",
    "IN_FLIGHT",
    "NEWER",
    "SEAL",
    "Digests",
    "Readable",
    "Span",
    "examine",
]

FACT: Final = "fact"
HEADER: Final = "header"
SEAL: Final = "seal"
NEWER: Final = "newer"  # a line of a newer version: kept, never rewritten
DAMAGED: Final = "damaged"
IN_FLIGHT: Final = "in_flight"  # the unfinished last line of a living writer

_CHUNK_BYTES = 1 << 18
_WINDOW_BYTES = 2 * LINE_BYTES_MAX
_MARKER = re.compile(rb'\{"v":1,"writer":"[0-9a-f]{16}","seq":')
_NULS = re.compile(rb"\0{16,}|\A\0+\Z")
_WHATS = {**dict.fromkeys((kind.value for kind in FactKind), FACT), SEGMENT_OPEN: HEADER, SEGMENT_SEAL: SEAL}
_SEAL = SEGMENT_SEAL.encode()
_json = json.JSONDecoder(parse_int=len)  # only the length matters; making huge numbers raises
_TOO_LONG = LineDamaged("oversize_line", f"longer than {LINE_BYTES_MAX} bytes")
_TORN = LineDamaged("torn_tail", "the file ends within a line")
_CUT_SHORT = LineDamaged("torn_inside", "a line cut short, with a whole one glued to it")
_CUT_BY_NULS = LineDamaged("torn_inside", "cut short by NUL bytes")
_NUL_RUN = LineDamaged("nul_run", "NUL bytes: space that was never written")
_EMPTY = LineDamaged("corrupt_line", "no line: only line ends")


class Readable(Protocol):
    """As much of a ``FileSystem`` as reading needs."""

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        """Read at *offset*; empty at the end."""
        raise NotImplementedError


class Span(NamedTuple):
    """Some bytes of a segment: one line with its line end, or a stretch of damage.

    *anomaly* is the type of DAMAGED bytes; for a good line None, or ``lost_newline`` if it verifies and no
    line end follows (*length* then counts none). *outline* is what a good line says, *detail* what is wrong.
    """

    offset: int
    length: int
    what: str
    anomaly: str | None = None
    outline: Outline | None = None
    detail: str = ""

    @property
    def end(self) -> int:
        """The offset just past it."""
        return self.offset + self.length


# In half the time that the class takes.
_new = cast("Callable[[type[Span], tuple[object, ...]], Span]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]


class Digests:
    """Digests of a segment as it is examined: of all that comes before each seal, and of the whole.

    *before_seal* belongs to the last seal seen; ``""`` before any.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._hashed_to = 0
        self.before_seal: str = ""

    def feed(self, data: bytes | memoryview, offset: int) -> None:
        """Take *data*, which stands at *offset* in the file; what was taken before is passed over."""
        fresh = self._hashed_to - offset
        if fresh < len(data):
            self._hash.update(memoryview(data)[fresh:])
            self._hashed_to = offset + len(data)

    def seal(self) -> None:
        """Note that a seal begins just past what was taken."""
        self.before_seal = self._hash.hexdigest()

    def whole(self) -> str:
        """Return the digest of everything that was taken."""
        return self._hash.hexdigest()


def examine(
    fs: Readable, fd: int, size: int, *, alive: bool, digests: Digests | None = None
) -> Iterator[Span]:
    """Yield spans that cover the first *size* bytes of the open file *fd*, in order and without overlap.

    *alive* says that a writer still appends: then an unterminated tail is no damage. Raises OSError when
    the file cannot be read; what was yielded until then stands. A file that turns out shorter than *size* is covered
    as far as it goes.
    """
    return chain.from_iterable(_Examination(fs, fd, size, alive, digests or Digests()).batches())


class _Examination:
    """Reads in large pieces and yields the spans of each: a generator's step for every line would cost too much."""

    def __init__(self, fs: Readable, fd: int, size: int, alive: bool, digests: Digests) -> None:
        self._fs = fs
        self._fd = fd
        self._size = size
        self._alive = alive
        self._digests = digests
        self._pending = b""  # the line that is not complete yet
        self._offset = 0  # where pending begins
        self._long = False  # that line is so long that its beginning was accounted for already
        self._held: Span | None = None  # the end of that beginning: more of the same may follow

    def batches(self) -> Iterator[list[Span]]:
        while chunk := self._next_chunk():
            data = self._pending + chunk
            lines = data.split(b"\n")
            self._pending = lines.pop()
            if lines:
                spans = self._joined(self._lines(lines, data))
                if spans[-1].detail is _EMPTY.detail:
                    self._held = spans.pop()
                yield spans
            if len(self._pending) >= _WINDOW_BYTES:
                yield self._window()
        if self._pending:
            yield self._joined(self._tail())
        if self._held is not None:
            yield [self._held]

    def _next_chunk(self) -> bytes:
        at = self._offset + len(self._pending)
        return self._fs.pread(self._fd, min(_CHUNK_BYTES, self._size - at), at) if at < self._size else b""

    def _lines(self, lines: list[bytes], data: bytes) -> list[Span]:
        """Return the spans of *lines*, with which *data* begins."""
        spans: list[Span] = []
        offset = self._offset
        for line in lines:
            length = len(line) + 1
            if length > LINE_BYTES_MAX or self._long:
                spans += _salvaged(line + b"\n", offset, _TOO_LONG)[0]
                self._long = False
            elif length == 1:
                _add_empty(spans, offset)
            else:
                try:
                    found = outline(line)
                except LineDamaged as error:
                    spans += _salvaged(line + b"\n", offset, error)[0]
                except LogTooNew as error:
                    spans += _newer(line + b"\n", offset, error)
                else:
                    what = _WHATS[found.kind]
                    spans.append(_new(Span, (offset, length, what, None, found, "")))
            offset += length
        self._digest(spans, data, offset)
        return spans

    def _window(self) -> list[Span]:
        """Account for the beginning of a very long line: up to where a record could begin that ends later."""
        spans, length = _salvaged(self._pending, self._offset, _TOO_LONG, len(self._pending) - LINE_BYTES_MAX)
        self._digest(spans, self._pending, self._offset + length)
        self._pending = self._pending[length:]
        self._long = True
        spans = self._joined(spans)
        if spans[-1].what is DAMAGED:
            self._held = spans.pop()
        return spans

    def _tail(self) -> list[Span]:
        data = self._pending
        too_long = self._long or len(data) >= LINE_BYTES_MAX
        if self._alive and not too_long:
            return [Span(self._offset, len(data), IN_FLIGHT)]
        spans, _ = _salvaged(data, self._offset, _TOO_LONG if too_long else _TORN)
        self._digest(spans, data, self._offset + len(data))
        return spans

    def _digest(self, spans: list[Span], data: bytes, end: int) -> None:
        """Digest *data* up to *end*, which is what *spans* cover, and go on from there."""
        view = memoryview(data)
        for span in spans if _SEAL in data else ():
            if span.what is SEAL:
                self._digests.feed(view[: span.offset - self._offset], self._offset)
                self._digests.seal()
        self._digests.feed(view[: end - self._offset], self._offset)
        self._offset = end

    def _joined(self, spans: list[Span]) -> list[Span]:
        """Return *spans*, and what was held back in front of them."""
        held, self._held = self._held, None
        if held is None:
            return spans
        if spans and (spans[0].what, spans[0].anomaly, spans[0].detail) == (
            DAMAGED,
            held.anomaly,
            held.detail,
        ):
            return [held._replace(length=held.length + spans[0].length), *spans[1:]]
        return [held, *spans]


def _salvaged(data: bytes, base: int, error: LineDamaged, stop: int | None = None) -> tuple[list[Span], int]:
    """Return spans that cover *data*, at *base* in the file, and how much they cover.

    They are the good records in a bad line, and what is around them. *error* is what is wrong with the whole. Records
    that begin at *stop* or later, and damage from there on, are left out.
    """
    stop = len(data) if stop is None else stop
    spans: list[Span] = []
    at = 0
    for start, end, record in _records(data, stop):
        if start > at:
            before = error if error is _TOO_LONG else _CUT_SHORT
            spans += _fragments(data[at:start], base + at, before)
        at = end + 1 if data[end : end + 1] == b"\n" else end
        lost = None if at > end else "lost_newline"
        spans.append(Span(base + start, at - start, _WHATS[record.kind], lost, record))
    if at < stop:
        rest = data[at:stop]
        behind = error if at == 0 or error is _TOO_LONG or error is _TORN else _fault(rest)
        spans += _fragments(rest, base + at, behind)
        at = stop
    return spans, at


def _records(data: bytes, stop: int) -> Iterator[tuple[int, int, Outline]]:
    """Yield where each good record in *data* begins and ends, and what it says. Those that begin before *stop*."""
    found = _MARKER.search(data)
    text = data.decode("latin-1") if found else ""  # offsets stay, and what JSON is made of is ASCII
    while found is not None and (start := found.start()) < stop:
        record, end = None, start + 1
        try:
            _, json_end = _json.raw_decode(text, start)
            if json_end - start < LINE_BYTES_MAX:
                record, end = outline(data[start:json_end]), json_end
        except (ValueError, RecursionError, LineDamaged, LogTooNew):
            pass
        if record is not None:
            yield start, end, record
        found = _MARKER.search(data, end)


def _newer(data: bytes, base: int, error: LogTooNew) -> list[Span]:
    """Return the span of a newer version's line, or what is in *data* if only its beginning looks like one."""
    if _MARKER.search(data):
        spans, _ = _salvaged(data, base, _CUT_SHORT)
        if len(spans) > 1:
            return spans
    return [Span(base, len(data), NEWER, "future_version", None, f"written in line format {error.version}")]


def _fault(data: bytes) -> LineDamaged:
    """Return what is wrong with *data*, which stands behind a whole line without line end."""
    try:
        outline(data.removesuffix(b"\n"))
    except LineDamaged as error:
        return error
    except LogTooNew:
        pass
    return LineDamaged("corrupt_line", "not a line, behind a whole one")


def _fragments(data: bytes, base: int, error: LineDamaged) -> Iterator[Span]:
    """Yield spans that cover *data*, all of it damaged, runs of NUL bytes apart from the rest."""
    at = 0
    body_bytes = len(data.removesuffix(b"\n"))
    for run in _NULS.finditer(data, 0, body_bytes):
        if run.start() > at:
            before = error if error is _TOO_LONG else _CUT_BY_NULS
            yield _damaged(base + at, run.start() - at, before)
        at = len(data) if run.end() == body_bytes else run.end()
        yield _damaged(base + run.start(), at - run.start(), _NUL_RUN)
    if at < len(data):
        yield _damaged(base + at, len(data) - at, error)


def _add_empty(spans: list[Span], offset: int) -> None:
    """Account for a line end without a line; a run of them is one stretch."""
    if spans and spans[-1].detail is _EMPTY.detail:
        first = spans.pop()
        spans.append(_damaged(first.offset, first.length + 1, _EMPTY))
    else:
        spans.append(_damaged(offset, 1, _EMPTY))


def _damaged(offset: int, length: int, error: LineDamaged) -> Span:
    return Span(offset, length, DAMAGED, error.anomaly, None, error.detail)
