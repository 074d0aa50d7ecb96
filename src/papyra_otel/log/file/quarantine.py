"""What a recovery took out of a segment: enough to have the segment back as it was, byte for byte.

    {"v":1,"segment":"events/20261122T...-000001.ndjson","bytes":8123,"digest":"<BLAKE2b-256>","mode":"quarantine","taken_spans":1,"taken_bytes":97,"crc":...}
    {"offset":412,"length":97,"replaced_by":0,"anomalies":["crc_mismatch"],"data":"<base64>","seqs":[...],"crc":...}
    {"edits":1,"crc":...}

One file per rewritten segment, ``<kinds>-<segment>-<digest of what it was>.ndjson``; the first line tells of
the segment as it was, each edit what stood at *offset* there and how many bytes stand in the new one
instead. *seqs* are the sequence ranges that were found lost at this place: from then on they are explained. An edit
of length 0 only adds. Long damage is several edits, so no line is long. Every line verifies alone, as facts
do, and the last one tells that all are there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from papyra_otel.errors import LineDamaged
from papyra_otel.log.codec import sign, signed
from papyra_otel.log.explained import SeqRange, parse_range
from papyra_otel.log.file.fs import FileSystem
from papyra_otel.log.file.layout import SegmentName
from papyra_otel.log.file.lines import lines_forward

__all__ = [
    "Edit",
    "KeptEdit",
    "KeptSegment",
    "ReadAt",
    "edited",
    "quarantine_lines",
    "quarantine_name",
    "read_quarantine",
    "seqs_kept",
    "undo",
]

FORMAT: Final = 1
_PIECE_BYTES = 3 << 16  # base64 makes 256 KiB of it
_COPY_BYTES = 1 << 18

ReadAt = Callable[[int, int], bytes]  # (size, offset) -> bytes, fewer only at the end


class Edit(NamedTuple):
    """In a segment, *length* bytes at *offset* give way to *replacement*.

    *anomalies* says why, *seqs* which facts were lost there.
    """

    offset: int
    length: int
    replacement: bytes = b""
    anomalies: tuple[str, ...] = ()
    seqs: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The offset just past what gives way."""
        return self.offset + self.length


class KeptSegment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first line: a segment as it was before it was rewritten.

    A recovery adds what it did to it: how many damaged spans, of how many bytes, it took out, how many lines it
    repaired.
    """

    v: int
    segment: str
    size_bytes: int = msgspec.field(name="bytes")
    digest: str
    mode: str
    taken_spans: int = 0
    taken_bytes: int = 0
    repaired_lines: int = 0


class KeptEdit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of what was taken out. *data* is base64 of *length* bytes."""

    offset: int
    length: int
    replaced_by: int
    anomalies: tuple[str, ...] = ()
    data: str = ""
    seqs: tuple[str, ...] = ()


class _End(msgspec.Struct, frozen=True):
    edits: int


_encoder = msgspec.json.Encoder()
_segment_decoder = msgspec.json.Decoder(KeptSegment)
_line_decoder = msgspec.json.Decoder(KeptEdit)
_end_decoder = msgspec.json.Decoder(_End)


def quarantine_name(kinds: str, segment: SegmentName, digest: str) -> str:
    """Return the name of the file that keeps what was taken out of the segment that had *digest* as a whole."""
    return f"{kinds}-{str(segment).removesuffix('.ndjson')}-{digest[:16]}.ndjson"


def edited(read: ReadAt, size_bytes: int, edits: Iterable[Edit]) -> Iterator[bytes]:
    """Yield the content of *size_bytes* that *read* gives, with *edits*, ordered and apart, applied."""
    at = 0
    for edit in edits:
        yield from _copied(read, at, edit.offset)
        if edit.replacement:
            yield edit.replacement
        at = edit.end
    yield from _copied(read, at, size_bytes)


def quarantine_lines(segment: KeptSegment, edits: Iterable[Edit], read: ReadAt) -> Iterator[bytes]:
    """Yield the lines of a quarantine file. *read* gives the segment as it was."""
    yield _signed(segment)
    count = 0
    for edit in edits:
        for kept in _pieces(edit, read):
            count += 1
            yield _signed(kept)
    yield _signed(_End(count))


def read_quarantine(fs: FileSystem, path: str) -> Iterator[KeptSegment | KeptEdit]:
    """Yield what the quarantine file *path* holds: first the segment, then its edits.

    Raises LineDamaged as soon as a line does not verify or is missing, and OSError.
    """
    fd = fs.open_read(path)
    try:
        count = -1
        ended = False
        for _, line in lines_forward(fs, fd, 0):
            if ended:
                raise LineDamaged("corrupt_line", f"{path}: something behind the last line")
            try:
                found = _verified(line, first=count < 0)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise LineDamaged("schema_invalid", f"{path}: {error}") from None
            if isinstance(found, _End):
                ended = found.edits == count
                if not ended:
                    raise LineDamaged("corrupt_line", f"{path}: {found.edits} edits written, {count} found")
            else:
                count += 1
                yield found
        if not ended:
            raise LineDamaged("torn_tail", f"{path}: its last line is missing")
    finally:
        fs.close(fd)


def seqs_kept(fs: FileSystem, path: str) -> list[SeqRange]:
    """Return the sequence ranges that the quarantine file *path* explains. Raises LineDamaged, OSError."""
    texts = [text for kept in read_quarantine(fs, path) if isinstance(kept, KeptEdit) for text in kept.seqs]
    return [found for found in map(parse_range, texts) if found is not None]


def undo(fs: FileSystem, read: ReadAt, path: str) -> Iterator[bytes]:
    """Yield the segment as it was, from the rewritten one, which *read* gives, and its quarantine file *path*.

    Raises LineDamaged at the end when what was yielded is not what the file says it was, and OSError.
    """
    kept = read_quarantine(fs, path)
    segment = next(kept)
    assert isinstance(segment, KeptSegment)  # noqa: S101 - the first always is
    digest = hashlib.blake2b(digest_size=32)
    size = 0
    for piece in _undone(segment, kept, read):
        digest.update(piece)
        size += len(piece)
        yield piece
    if (size, digest.hexdigest()) != (segment.size_bytes, segment.digest):
        raise LineDamaged(
            "segment_digest", f"{path}: applied to another segment than the one rewritten with it"
        )


def _undone(segment: KeptSegment, kept: Iterator[KeptSegment | KeptEdit], read: ReadAt) -> Iterator[bytes]:
    at = moved = 0  # in the old segment; how much further the same byte is in the new one
    for edit in kept:
        assert isinstance(edit, KeptEdit)  # noqa: S101 - all but the first are
        yield from _copied(read, at + moved, edit.offset + moved)
        if edit.length:
            yield base64.b64decode(edit.data)
        at = edit.offset + edit.length
        moved += edit.replaced_by - edit.length
    yield from _copied(read, at + moved, segment.size_bytes + moved)


def _copied(read: ReadAt, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = read(min(_COPY_BYTES, end - start), start)
        if not piece:
            return
        yield piece
        start += len(piece)


def _pieces(edit: Edit, read: ReadAt) -> Iterator[KeptEdit]:
    """Yield the lines of one edit: more than one where much was taken out."""
    offset = edit.offset
    while True:
        data = b"".join(_copied(read, offset, min(offset + _PIECE_BYTES, edit.end)))
        first = offset == edit.offset
        yield KeptEdit(
            offset=offset,
            length=len(data),
            replaced_by=len(edit.replacement) if first else 0,
            anomalies=edit.anomalies,
            data=base64.b64encode(data).decode(),
            seqs=edit.seqs if first else (),
        )
        offset += len(data)
        if offset >= edit.end or not data:
            return


def _signed(line: KeptSegment | KeptEdit | _End) -> bytes:
    return sign(_encoder.encode(line))


def _verified(line: bytes, *, first: bool) -> KeptSegment | KeptEdit | _End:
    if not signed(line):
        raise LineDamaged("crc_mismatch", "a line of the quarantine file does not verify")
    if first:
        return _segment_decoder.decode(line)
    return _end_decoder.decode(line) if line.startswith(b'{"edits"') else _line_decoder.decode(line)
