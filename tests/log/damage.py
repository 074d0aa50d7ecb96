"""Ways to damage a log, one after the other, and small logs by hand to damage: for proofs that try them all.

Everything works on bytes and makes its lines with nothing of ours, so it can judge what ours says. A case is
the damaged bytes of one segment and where they differ from the whole ones.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple, NoReturn

from log.examples import WRITER, signed_by_hand
from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.file.fs import FileStatus
from papyra_otel.log.file.layout import SegmentName

__all__ = [
    "BytesFs",
    "Case",
    "Made",
    "byte_cases",
    "fact_line",
    "flips",
    "header_line",
    "insertions",
    "line_cases",
    "made_segment",
    "nul_tails",
    "other_lines",
    "seal_line",
    "torn_and_glued",
    "truncations",
]

STAMP = "20270115T080000Z"
NOW = 1_800_000_000_000_000_000  # 2027-01-15T08:00:00Z
INSERTED = tuple(b'\n"{}\0,:0\xff')
PAYLOADS = (
    "",
    "x",
    "ünïcödé \U0001f9fe 漢字",
    '{"v":1,"writer":"',
    '"}\n\\,"crc":"00000000"}',
    "\x00\x1f\x7f",
)


# --- lines and segments by hand -------------------------------------------------------------------------


def time_text(nanos: int) -> str:
    """Return the moment *nanos* after 2027-01-15T08:00:00Z, at most an hour."""
    seconds, rest = divmod(nanos, 1_000_000_000)
    return f"2027-01-15T08:{seconds // 60:02d}:{seconds % 60:02d}.{rest:09d}Z"


def fact_line(seq: int, kind: str = "event", *, writer: str = WRITER, **members: Any) -> bytes:
    """Return the line, with its line end, of a fact; *members* replace those it would have."""
    given = {
        "v": 1,
        "writer": writer,
        "seq": seq,
        "time": time_text(seq * 1_000_000),
        "kind": kind,
        "name": "papyra.actor.started",
        "severity": "INFO",
        "system": "shop",
        "actor": f"shop/wörker-{seq % 3}",
        "attributes": {"p": PAYLOADS[seq % len(PAYLOADS)]},
    }
    return signed_by_hand(given | members) + b"\n"


def header_line(
    first_seq: int = 0,
    kind: str = "event",
    *,
    number: int = 1,
    previous: int | None = None,
    predecessor: str | None = None,
    writer: str = WRITER,
    system: str = "shop",
) -> bytes:
    """Return the first line of a segment."""
    attributes: dict[str, Any] = {
        semconv.FACT_KIND: kind,
        semconv.SEGMENT_FORMAT: 1,
        semconv.SEGMENT_INDEX: number,
        semconv.HOST_NAME: "höst",
        semconv.PROCESS_PID: 1,
    }
    if previous is not None:
        attributes[semconv.SEGMENT_PREVIOUS] = previous
    if predecessor is not None:
        attributes[semconv.SEGMENT_PREDECESSOR] = predecessor
    return _mark_line("segment.open", semconv.LOG_OPENED, first_seq, writer, system, attributes)


def seal_line(
    before: bytes,
    records: int,
    last_seq: int,
    kind: str = "event",
    *,
    writer: str = WRITER,
    system: str = "shop",
    replaces: Sequence[str] = (),
    rewritten: str | None = None,
) -> bytes:
    """Return the last line of a segment that begins with *before*."""
    attributes: dict[str, Any] = {
        semconv.FACT_KIND: kind,
        semconv.SEGMENT_RECORDS: records,
        semconv.SEGMENT_LAST_SEQ: last_seq,
        semconv.SEGMENT_BYTES: len(before),
        semconv.SEGMENT_DIGEST: digest_of(before),
    }
    if replaces:
        attributes[semconv.SEGMENT_REPLACES] = list(replaces)
    if rewritten is not None:
        attributes[semconv.SEGMENT_REWRITTEN] = rewritten
    return _mark_line("segment.seal", semconv.LOG_SEALED, max(last_seq, 0), writer, system, attributes)


def _mark_line(
    mark: str, name: str, seq: int, writer: str, system: str, attributes: Mapping[str, Any]
) -> bytes:
    members = {
        "v": 1,
        "writer": writer,
        "seq": seq,
        "time": time_text(seq * 1_000_000),
        "kind": mark,
        "name": name,
        "severity": "DEBUG",
        "system": system,
        "attributes": attributes,
    }
    return signed_by_hand(members) + b"\n"


def digest_of(data: bytes) -> str:
    """Return the digest that a seal over *data* has."""
    return hashlib.blake2b(data, digest_size=32).hexdigest()


@dataclass(frozen=True)
class Made:
    """A segment made by hand: its *lines*, each with its line end, and what may follow the last."""

    lines: tuple[bytes, ...]
    kind: str = "event"
    number: int = 1
    writer: str = WRITER
    tail: bytes = b""
    sealed: bool = True
    alive: bool = False

    @property
    def data(self) -> bytes:
        """The content."""
        return b"".join(self.lines) + self.tail

    @property
    def digest(self) -> str:
        """What the seal says."""
        return digest_of(b"".join(self.lines[:-1]))

    @property
    def name(self) -> SegmentName:
        """The file's name."""
        return SegmentName(STAMP, self.writer, self.number)

    @property
    def path(self) -> str:
        """The path in a log whose folder is ``/log``."""
        return f"/log/shop/{FactKind(self.kind).plural}/{self.name}"


def made_segment(
    seqs: Iterable[int],
    kind: str = "event",
    *,
    number: int = 1,
    first_seq: int | None = None,
    previous: int | None = None,
    predecessor: str | None = None,
    writer: str = WRITER,
    state: str = "sealed",
    facts: Mapping[int, Mapping[str, Any]] | None = None,
) -> Made:
    """Return a segment with facts of *seqs*. *state* is sealed, unsealed or alive; *facts* are members by seq."""
    given = list(seqs)
    begin = (given[0] if given else 0) if first_seq is None else first_seq
    lines = [
        header_line(begin, kind, number=number, previous=previous, predecessor=predecessor, writer=writer),
        *(fact_line(seq, kind, writer=writer, **(facts or {}).get(seq, {})) for seq in given),
    ]
    tail = b""
    if state == "sealed":
        last_seq = given[-1] if given else begin - 1
        lines.append(seal_line(b"".join(lines), len(given), last_seq, kind, writer=writer))
    elif state == "alive":
        tail = fact_line(given[-1] + 1, kind, writer=writer)[:70]
    return Made(tuple(lines), kind, number, writer, tail, state == "sealed", state == "alive")


# --- damage ---------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Damaged bytes. *first* is where they begin to differ, *what* names the damage."""

    what: str
    first: int
    data: bytes


def flips(data: bytes, at: Iterable[int] | None = None) -> Iterator[Case]:
    """Flip every bit."""
    for offset in range(len(data)) if at is None else at:
        for bit in range(8):
            yield Case(f"flip {bit}", offset, _with(data, offset, 1, bytes([data[offset] ^ 1 << bit])))


def byte_cases(data: bytes, at: Iterable[int] | None = None) -> Iterator[Case]:
    """Delete, zero and double every byte."""
    for offset in range(len(data)) if at is None else at:
        yield Case("delete", offset, _with(data, offset, 1, b""))
        yield Case("double", offset, _with(data, offset, 0, data[offset : offset + 1]))
        if data[offset]:
            yield Case("zero", offset, _with(data, offset, 1, b"\0"))


def insertions(data: bytes, at: Iterable[int] | None = None) -> Iterator[Case]:
    """Insert something everywhere."""
    for offset in range(len(data) + 1) if at is None else at:
        for value in INSERTED:
            yield Case(f"insert {value:#x}", offset, _with(data, offset, 0, bytes([value])))


def truncations(data: bytes, at: Iterable[int] | None = None) -> Iterator[Case]:
    """Cut off at every byte."""
    for offset in range(len(data)) if at is None else at:
        yield Case("truncate", offset, data[:offset])


def nul_tails(data: bytes, at: Iterable[int] | None = None) -> Iterator[Case]:
    """Put NUL bytes in place of all from a byte on, or of some, and behind the end."""
    for offset in range(len(data)) if at is None else at:
        yield Case("nul to end", offset, data[:offset] + bytes(len(data) - offset))
        yield Case("nul 20", offset, _with(data, offset, 20, bytes(20)))
    for count in (1, 2, 15, 16, 17, 511, 4096):
        yield Case(f"{count} nuls behind", len(data), data + bytes(count))


def torn_and_glued(lines: Sequence[bytes]) -> Iterator[Case]:
    """Cut each line short at every byte and go on with the next one."""
    at = 0
    for number, line in enumerate(lines):
        before, behind = b"".join(lines[:number]), b"".join(lines[number + 1 :])
        for cut in range(len(line)):
            yield Case(f"torn and glued {number}", at + cut, before + line[:cut] + behind)
        at += len(line)


def line_cases(lines: Sequence[bytes]) -> Iterator[tuple[str, int, tuple[bytes, ...]]]:
    """Lose, double, and swap lines: what, the (first) line, all lines then."""
    for number, line in enumerate(lines):
        yield "lose", number, (*lines[:number], *lines[number + 1 :])
        for target in range(number + 1, len(lines) + 1):
            yield "double", number, (*lines[:target], line, *lines[target:])
    for left, right in combinations(range(len(lines)), 2):
        swapped = list(lines)
        swapped[left], swapped[right] = swapped[right], swapped[left]
        yield "swap", left, tuple(swapped)


def other_lines(seq: int) -> Iterator[tuple[str, bytes]]:
    """Lines that are none of ours, and the anomaly each is."""
    whole = fact_line(seq)
    yield "foreign_json", b'{"level":"info","msg":"hello"}\n'
    yield "foreign_json", b"[]\n"
    yield "foreign_json", b"17\n"
    yield "corrupt_line", b"\n"
    yield "corrupt_line", b"Traceback (most recent call last):\n"
    yield "corrupt_line", b"\xff\xfe\x00h\x00i\n"
    yield "corrupt_line", b"\r\n"
    yield "nul_run", bytes(16) + b"\n"
    yield "nul_run", bytes(5) + b"\n"
    yield "crc_mismatch", whole.replace(b'"seq":', b'"seq": ')
    yield "schema_invalid", signed_by_hand({"v": 1, "writer": WRITER}) + b"\n"
    yield "schema_invalid", fact_line(-1)
    yield "schema_invalid", fact_line(seq, kind="gossip")
    yield "schema_invalid", fact_line(seq, writer="me")
    yield "schema_invalid", fact_line(seq, time="yesterday")
    yield "schema_invalid", fact_line(seq, time="2027-02-30T08:00:00.000000000Z")
    yield "schema_invalid", fact_line(seq, attributes=[1])
    yield "future_version", signed_by_hand({"v": 2, "writer": WRITER, "what": "new"}) + b"\n"
    yield "crc_mismatch", b'{"v":9,"writer":"' + b"?" * 50 + b"\n"
    yield "oversize_line", b"x" * (1 << 20) + b"\n"
    yield "oversize_line", _sized(seq, (1 << 20) + 1)


def _sized(seq: int, size: int) -> bytes:
    """Return a good line of exactly *size* bytes."""
    empty = len(fact_line(seq, attributes={"p": ""}))
    return fact_line(seq, attributes={"p": "x" * (size - empty)})


def _with(data: bytes, offset: int, length: int, replacement: bytes) -> bytes:
    return data[:offset] + replacement + data[offset + length :]


# --- a file system of bytes, to read from ---------------------------------------------------------------


@dataclass
class BytesFs:
    """As much of the port as looking needs. *held* are the files that a living writer has locked."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    held: set[str] = field(default_factory=set[str])
    failing: dict[str, int] = field(default_factory=dict[str, int])  # paths, and the errno of reading them
    opened: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, *segments: Made) -> BytesFs:
        """Return a log of *segments* in ``/log``."""
        held = {segment.path for segment in segments if segment.alive}
        return cls({segment.path: segment.data for segment in segments}, held)

    def open_read(self, path: str) -> int:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.opened.append(path)
        return len(self.opened) - 1

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        path = self.opened[fd]
        if path in self.failing:
            number = self.failing[path]
            raise OSError(number, os.strerror(number), path)
        return self.files[path][offset : offset + size]

    def size(self, fd: int) -> int:
        return len(self.files[self.opened[fd]])

    def locked(self, fd: int) -> bool:
        return self.opened[fd] in self.held

    def linked(self, fd: int) -> bool:
        return self.opened[fd] in self.files

    def close(self, fd: int) -> None:
        if fd == len(self.opened) - 1:
            self.opened.pop()

    def status(self, path: str) -> FileStatus:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return FileStatus(len(self.files[path]), 1, 1)

    def is_folder(self, path: str) -> bool:
        return any(name.startswith(f"{path}/") for name in self.files)

    def names(self, path: str) -> list[str]:
        if not self.is_folder(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        inside = (name[len(path) + 1 :] for name in self.files if name.startswith(f"{path}/"))
        return sorted({name.partition("/")[0] for name in inside})

    def _never(self, *arguments: object) -> NoReturn:
        raise AssertionError("looking at a log must not change it")

    create = write = fsync = fsync_folder = lock = make_folder = _never
    lock_folder = rename = unlink = truncate = free_bytes = _never
