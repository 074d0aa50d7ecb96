"""Lines of a file, from either end, in bounded memory, working on bytes: one bad byte spoils one line."""

from __future__ import annotations

from collections.abc import Iterator

from papyra_otel.log.codec import LINE_BYTES_MAX
from papyra_otel.log.file.fs import FileSystem

__all__ = ["count_lines", "end_of_lines", "lines_backward", "lines_forward"]

_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 1 << 16


def lines_forward(fs: FileSystem, fd: int, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset past its line end, line without it) from *start* on; an unterminated tail is left out.

    A line longer than LINE_BYTES_MAX comes as empty bytes: too long to be a fact.
    """
    offset = start
    pending = b""
    skipping = False
    while chunk := fs.pread(fd, _CHUNK_BYTES, offset + len(pending)):
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            offset += len(line) + 1
            yield offset, b"" if skipping or len(line) >= LINE_BYTES_MAX else line
            skipping = False
        if len(pending) >= LINE_BYTES_MAX:
            offset += len(pending)
            pending = b""
            skipping = True


def lines_backward(fs: FileSystem, fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset of its first byte, line without line end) from *end* back to the beginning.

    What follows the last line end before *end* is left out. Overlong lines come as empty bytes.
    """
    at = end
    tail: list[bytes] = []  # pieces of the line being gathered, last first
    tail_bytes = 0
    terminated = False
    while at > 0:
        size = min(_BLOCK_BYTES, at)
        block = fs.pread(fd, size, at - size)
        at -= size
        cut = len(block)
        while (newline := block.rfind(b"\n", 0, cut)) >= 0:
            piece = block[newline + 1 : cut]
            if terminated:
                yield at + newline + 1, _joined(piece, tail, tail_bytes)
            terminated = True
            tail, tail_bytes, cut = [], 0, newline
        tail_bytes += cut
        if tail_bytes < LINE_BYTES_MAX:
            tail.append(block[:cut])
    if terminated:
        yield 0, _joined(b"", tail, tail_bytes)


def _joined(piece: bytes, tail: list[bytes], tail_bytes: int) -> bytes:
    if len(piece) + tail_bytes >= LINE_BYTES_MAX:
        return b""
    return b"".join((piece, *reversed(tail))) if tail else piece


def end_of_lines(fs: FileSystem, fd: int) -> int:
    """Return the offset past the last line end: what follows is torn, or still being written."""
    at = fs.size(fd)
    while at > 0:
        size = min(_BLOCK_BYTES, at)
        newline = fs.pread(fd, size, at - size).rfind(b"\n")
        at -= size
        if newline >= 0:
            return at + newline + 1
    return 0


def count_lines(fs: FileSystem, fd: int) -> tuple[int, int]:
    """Return how many terminated lines there are, and their bytes with line ends."""
    lines = size_bytes = at = 0
    while chunk := fs.pread(fd, _CHUNK_BYTES, at):
        count = chunk.count(b"\n")
        if count:
            lines += count
            size_bytes = at + chunk.rfind(b"\n") + 1
        at += len(chunk)
    return lines, size_bytes
