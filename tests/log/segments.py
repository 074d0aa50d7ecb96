"""Segments and small logs made by hand, files in memory, and what may be done to bytes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papyra_otel import semconv
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import FORMAT, SEGMENT_OPEN, SEGMENT_SEAL, Line, encode, encode_line
from papyra_otel.log.file.examine import FACT, examine
from papyra_otel.log.file.fs import OsFileSystem
from papyra_otel.log.file.layout import SegmentName
from papyra_otel.log.times import format_time
from papyra_otel.testing import make_fact

NOW = 1_795_377_765_123_456_789
WRITER = "9f2c41d07be3a815"
SMALL: list[dict[str, Any]] = [{"t": "ä"}, {"t": "J*\n\x0b 漢", "v": [1.5, True]}]


class BytesFs(OsFileSystem):
    """Files in memory, only to be read: the path is the number of the file, and so is the descriptor."""

    def __init__(self, *files: bytes) -> None:
        self.files = files

    def read(self, size: int, offset: int) -> bytes:
        return self.pread(0, size, offset)

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:  # type: ignore[override]
        return self.files[fd][offset : offset + size]

    def size(self, fd: int) -> int:
        return len(self.files[fd])

    def open_read(self, path: str) -> int:
        return int(path)

    def close(self, fd: int) -> None:
        pass


class UnsyncedFs(OsFileSystem):
    """The real file system, without waiting for the disk."""

    def fsync(self, fd: int) -> None:
        pass

    def fsync_folder(self, path: str) -> None:
        pass


@dataclass(frozen=True)
class Sample:
    """A segment as it was written, line by line."""

    lines: list[bytes]
    sealed: bool
    kind: FactKind
    first_seq: int
    digest: str | None

    @property
    def data(self) -> bytes:
        return b"".join(self.lines)

    @property
    def facts(self) -> list[bytes]:
        return self.lines[1:-1] if self.sealed else self.lines[1:]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.facts) - 1


def sample(
    kind: FactKind,
    attributes: list[dict[str, Any]],
    *,
    sealed: bool,
    first_seq: int = 0,
    writer: str = WRITER,
    number: int = 1,
    predecessor: str | None = None,
) -> Sample:
    """Return a segment with one fact for each of *attributes*."""

    def mark(mark_kind: str, name: str, seq: int, more: dict[str, Any]) -> bytes:
        given = {semconv.FACT_KIND: kind.value, **more}
        line = Line(
            v=FORMAT,
            writer=writer,
            seq=seq,
            time=format_time(NOW),
            kind=mark_kind,
            name=name,
            severity="DEBUG",
            system="shop",
            attributes=given,
        )
        return encode_line(line)

    header: dict[str, Any] = {semconv.SEGMENT_FORMAT: FORMAT, semconv.SEGMENT_INDEX: number}
    if number > 1:
        header[semconv.SEGMENT_PREVIOUS] = number - 1
    if predecessor is not None:
        header[semconv.SEGMENT_PREDECESSOR] = predecessor
    lines = [mark(SEGMENT_OPEN, semconv.LOG_OPENED, first_seq, header)]
    for seq, more in enumerate(attributes, first_seq):
        fact = make_fact(seq, kind=kind, attributes={"n": seq, **more})
        lines.append(encode(fact.identified(writer, seq)))
    digest = None
    if sealed:
        content = b"".join(lines)
        digest = hashlib.blake2b(content, digest_size=32).hexdigest()
        last_seq = first_seq + len(attributes) - 1
        seal = {
            semconv.SEGMENT_RECORDS: len(attributes),
            semconv.SEGMENT_LAST_SEQ: last_seq,
            semconv.SEGMENT_BYTES: len(content),
            semconv.SEGMENT_DIGEST: digest,
        }
        lines.append(mark(SEGMENT_SEAL, semconv.LOG_SEALED, max(last_seq, 0), seal))
    return Sample(lines, sealed, kind, first_seq, digest)


def small_log(root: Path, writers: int = 2, segments: int = 4, facts: int = 4) -> dict[Path, bytes]:
    """Return what to write where for a log of all kinds; the last writer's last segments have no seal."""
    files: dict[Path, bytes] = {}
    for number_of_writer in range(writers):
        writer = f"{0xABC000 + number_of_writer:016x}"
        for kind in FactKind:
            digest = None
            for number in range(1, segments + 1):
                first_seq = (number - 1) * facts
                made = sample(
                    kind,
                    [{"t": "ä" * (first_seq + n)} for n in range(facts)],
                    sealed=not (number_of_writer == writers - 1 and number == segments),
                    first_seq=first_seq,
                    writer=writer,
                    number=number,
                    predecessor=digest,
                )
                digest = made.digest
                name = SegmentName.new(NOW + number * 1_000_000_000, writer, number)
                files[root / "shop" / kind.plural / str(name)] = made.data
    return files


def write_files(files: dict[Path, bytes]) -> None:
    """Write *files*, with their folders."""
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def tree(root: Path) -> dict[str, bytes]:
    """Return all files below *root*."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def good_facts(data: bytes) -> list[bytes]:
    """Return the lines of the facts in *data* that verify, each with a line end."""
    spans = examine(BytesFs(data), 0, len(data), alive=False)
    return [data[span.offset : span.end].rstrip(b"\n") + b"\n" for span in spans if span.what is FACT]


# --- what may happen to bytes --------------------------------------------------------------------------


def flipped(data: bytes, bit: int) -> bytes:
    """Return *data* with one bit flipped."""
    at = bit // 8
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


def attacks_on_bytes(data: bytes) -> Iterator[bytes]:
    """Yield *data* with each byte deleted, zeroed, something inserted before it, cut off or NUL from there on."""
    for at in range(len(data)):
        yield data[:at] + data[at + 1 :]
        yield data[:at] + b"\0" + data[at + 1 :]
        yield data[:at]
        yield data[:at] + b"\0" * (len(data) - at)
        yield data[:at] + b"\0" * 20 + data[at + 20 :]
        yield from (data[:at] + more + data[at:] for more in (b"\0", b"\n", b"{", b"a"))


def attacks_on_lines(lines: list[bytes]) -> Iterator[bytes]:
    """Yield the lines with each one lost, torn, and every pair swapped or one of it there twice."""
    for at, line in enumerate(lines):
        yield b"".join(lines[:at] + lines[at + 1 :])
        for length in range(1, len(line), 7):
            yield b"".join([*lines[:at], line[:length], *lines[at + 1 :]])
            yield b"".join([*lines[:at], line[:length] + b"\n", *lines[at + 1 :]])
        for other in range(len(lines)):
            yield b"".join([*lines[:other], line, *lines[other:]])
            swapped = list(lines)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            yield b"".join(swapped)


def _shuffled(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def _without_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _line_twice(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"".join(lines)


def _overwritten(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(len(data[at : at + 30])) + data[at + 30 :]


ATTACKS: list[Callable[[bytes, random.Random], bytes]] = [
    lambda data, rng: flipped(data, rng.randrange(len(data) * 8)),
    lambda data, rng: data[: rng.randrange(len(data))],
    lambda data, rng: (data[: rng.randrange(len(data))] + bytes(len(data)))[: len(data)],
    _overwritten,
    _without_line,
    _line_twice,
    _shuffled,
]


def attacked(files: dict[Path, bytes], rng: random.Random, times: int) -> dict[Path, bytes]:
    """Return *files* after *times* attacks on some of them; a few files are gone."""
    files = dict(files)
    for _ in range(times):
        path = rng.choice(sorted(files))
        if rng.randrange(12) == 0:
            del files[path]
        elif files[path]:
            files[path] = rng.choice(ATTACKS)(files[path], rng)
    return files


def several_bits(line: bytes, rng: random.Random) -> bytes:
    """Return *line* with at least two bits wrong: scattered, in a burst, or some bytes overwritten."""
    while True:
        bad = bytearray(line)
        how = rng.randrange(4)
        if how == 0:
            for bit in rng.sample(range(len(bad) * 8), rng.choice((2, 2, 3, 3, 4, 5, 8, 16))):
                bad[bit // 8] ^= 1 << bit % 8
        elif how == 1:
            length = rng.randrange(2, 33)
            first = rng.randrange(len(bad) * 8 - length)
            for bit in range(first, first + length):
                if bit in {first, first + length - 1} or rng.getrandbits(1):
                    bad[bit // 8] ^= 1 << bit % 8
        else:
            at = rng.randrange(len(bad) - 8)
            length = rng.randrange(1, 9)
            given = rng.randbytes(length) if how == 2 else bytes(rng.choices(b'abcdef01234567":,', k=length))
            bad[at : at + length] = given
        wrong = int.from_bytes(bad, "big") ^ int.from_bytes(line, "big")
        if wrong & (wrong - 1):
            return bytes(bad)
