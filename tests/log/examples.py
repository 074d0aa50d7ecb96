"""What several tests of the log need: an encoder of their own, hostile values, file systems that count or fail."""

from __future__ import annotations

import errno
import json
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.file.fs import OsFileSystem

WRITER = "9f2c41d07be3a815"
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
PLAIN_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    INT64,
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.lists(TEXT, max_size=4),
)
ODD_TEXT = st.text(st.characters(exclude_categories=[]), max_size=20)  # lone surrogates too


class Hostile:
    """An object nothing good can be done with."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __eq__ = __hash__ = __iter__ = __len__ = __getattr__ = __repr__  # type: ignore[assignment]


def _cycle() -> list[Any]:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    return cycle


ODD_SCALARS = st.one_of(
    st.integers(),
    st.floats(),
    ODD_TEXT,
    st.binary(max_size=20),
    st.just(2**5000),
    st.builds(object),
    st.builds(Hostile),
    st.builds(_cycle),
    st.sampled_from([FactKind.EVENT, int, ..., 1j, Fact, range(3), OSError("x"), "x" * 70_000]),
)
ODD_VALUES = st.recursive(
    st.one_of(PLAIN_VALUES, ODD_SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(ODD_TEXT, st.integers(), st.none()), inner, max_size=3),
        st.sets(st.integers(), max_size=3),
    ),
    max_leaves=8,
)
ODD_NAMES = st.one_of(ODD_TEXT, st.integers(), st.none(), st.binary(max_size=3), st.just("n" * 5000))

plain_facts = st.builds(
    Fact,
    kind=st.sampled_from(FactKind),
    name=TEXT,
    time_unix_nano=st.integers(0, 253_402_300_799_999_999_999),
    system=TEXT,
    actor=st.none() | TEXT,
    severity=TEXT,
    trace_id=st.none() | st.just("0af7651916cd43dd8448eb211c80319c"),
    span_id=st.none() | st.just("b7ad6b7169203331"),
    attributes=st.dictionaries(TEXT, PLAIN_VALUES, max_size=6),
    writer=st.just(WRITER),
    seq=st.integers(0, 2**63 - 1),
)


def checked_by_hand(line: bytes) -> dict[str, Any]:
    """Return the members of a line, verified with nothing of ours: one line of UTF-8 JSON, checksum last."""
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert len(line) <= 1 << 20
    members: dict[str, Any] = json.loads(line.decode("utf-8", "strict"), parse_constant=_no_constant)
    assert list(members)[:3] == ["v", "writer", "seq"]
    assert list(members)[-1] == "crc"
    unsigned, comma, _ = line.rpartition(b',"crc":"')
    assert comma
    assert members["crc"] == f"{zlib.crc32(unsigned + b'}'):08x}"
    return members


def signed_by_hand(members: dict[str, Any]) -> bytes:
    """Return a line without line end, made with nothing of ours."""
    body = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()
    return body[:-1] + b',"crc":"%08x"}' % zlib.crc32(body)


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


class CountingFs(OsFileSystem):
    """The real file system, counting calls; *before* may raise, or do what another process would."""

    def __init__(self, before: Callable[[str], None] = lambda call: None) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes_read = 0
        self.most_open = 0
        self.before = before
        self._reading: set[int] = set()

    def _called(self, call: str) -> None:
        self.calls[call] += 1
        self.before(call)

    def create(self, path: str) -> int:
        self._called("create")
        return super().create(path)

    def open_read(self, path: str) -> int:
        self._called("open_read")
        fd = super().open_read(path)
        self._reading.add(fd)
        self.most_open = max(self.most_open, len(self._reading))
        return fd

    def write(self, fd: int, data: bytes, /) -> int:  # type: ignore[override]
        self._called("write")
        return super().write(fd, data)

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:  # type: ignore[override]
        data = super().pread(fd, size, offset)
        self.bytes_read += len(data)
        return data

    def fsync(self, fd: int) -> None:  # type: ignore[override]
        self._called("fsync")
        super().fsync(fd)

    def fsync_folder(self, path: str) -> None:
        self._called("fsync_folder")
        super().fsync_folder(path)

    def close(self, fd: int) -> None:  # type: ignore[override]
        self._called("close")
        self._reading.discard(fd)
        super().close(fd)

    def make_folder(self, path: str) -> None:
        self._called("make_folder")
        super().make_folder(path)

    def linked(self, fd: int) -> bool:
        self._called("linked")
        return super().linked(fd)


def failing(call: str, number: int) -> Callable[[str], None]:
    """Return a *before* for CountingFs that fails every *call* with errno *number*."""

    def before(called: str) -> None:
        if called == call:
            raise OSError(number, errno.errorcode[number])

    return before
