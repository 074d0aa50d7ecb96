"""Line format v1: one fact, one line of JSON, the same bytes in a file, in Redis and in memory.

    {"v":1,"writer":"9f2c41d07be3a815","seq":1042,"time":"2026-11-22T20:02:45.123456789Z",
     "kind":"event","name":"papyra.actor.exception","severity":"ERROR","system":"orders",
     "actor":"orders/worker-12","trace_id":"...","span_id":"...","attributes":{...},"crc":"5b0e19aa"}

(one line in truth). ``{"v":1,"writer":"`` is where a scanner resynchronises; ``crc`` comes last and is
``%08x`` of zlib.crc32 over the object without that member, so every line verifies alone. Absent members
are left out. Segment headers and seals are lines of the same form with a kind of their own. Golden files
in tests/log/golden hold this for ever. docs/decisions/0005 says why it looks like this.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, groupby, islice, repeat
from struct import pack
from typing import Any, Final
from zlib import crc32

import msgspec

from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.times import MAX_UNIX_NANO, format_time, is_time, parse_time
from papyra_otel.log.values import ATTRIBUTES_MAX, NAME_CHARS_MAX, cut_to_size, plain, replaced_in, type_of
from papyra_otel.payload import jsonable

__all__ = [
    "FORMAT",
    "LINE_BYTES_MAX",
    "SEGMENT_OPEN",
    "SEGMENT_SEAL",
    "Line",
    "Outline",
    "decode",
    "encode",
    "encode_line",
    "encode_run",
    "faithful",
    "outline",
    "parse",
    "sign",
    "signed",
    "to_fact",
]

FORMAT: Final = 1
LINE_BYTES_MAX: Final = 1 << 20  # with its line end; collectors want lines under 1 MiB
SEGMENT_OPEN: Final = "segment.open"
SEGMENT_SEAL: Final = "segment.seal"

_CRC_MEMBER_BYTES = len(b',"crc":"00000000"}')
_OURS = b'{"v":%d,"writer":"' % FORMAT
_VERSION = re.compile(rb'\{"v":(\d{1,9}),"writer":"')
_WRITER = re.compile(r"[0-9a-f]{16}")
_KINDS = {kind.value: kind for kind in FactKind}
_OUTLINED = frozenset({*_KINDS, SEGMENT_OPEN, SEGMENT_SEAL})
_BRACE = ord("{")
_SHORTER_CHARS = (NAME_CHARS_MAX, 512, 64)  # with the last, 512 attributes always fit
_TEXTS = ("name", "severity", "system", "actor", "trace_id", "span_id")


class Line(msgspec.Struct, omit_defaults=True):
    """What is in one line, member by member, in the order they are written; ``crc`` is added after encoding."""

    v: int
    writer: str
    seq: int
    time: str
    kind: str
    name: str
    severity: str
    system: str
    actor: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    attributes: Mapping[str, Any] = {}


class Outline(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """What is in one line, its attributes as they are written: as much as looking after a log needs."""

    v: int
    writer: str
    seq: int
    time: str
    kind: str
    name: str
    severity: str
    system: str
    actor: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    attributes: msgspec.Raw = msgspec.Raw(b"{}")

    def details(self) -> dict[str, Any]:
        """Return the attributes."""
        return _details_decoder.decode(self.attributes)


_encoder = msgspec.json.Encoder()
_encode = _encoder.encode
_recurring: dict[tuple[str, FactKind, str, str, str], tuple[bytes, bytes]] = {}
_RECURRING_MAX = 1024
_NANOS_PER_SECOND = 1_000_000_000
_TOGETHER_MIN = 8  # fewer are encoded one by one at less cost
_SIMPLE: frozenset[type[Any]] = frozenset({str, bool, float})
_join = b"".join
_second: tuple[int | None, bytes] = (None, b"")
_last_plain: object = (
    None  # the attributes that were encoded last, as they are; kept, so no others can be them
)
_decoder = msgspec.json.Decoder(Line)
_outline_decoder = msgspec.json.Decoder(Outline)
_details_decoder = msgspec.json.Decoder(dict[str, Any])


def encode(fact: Fact, writer: str | None = None, seq: int | None = None) -> bytes:
    """Return the line of *fact*, line end included, at most LINE_BYTES_MAX bytes. Never raises for odd values.

    *writer* and *seq* are its identity unless it has one itself. What JSON cannot hold faithfully, or is nested beyond
    the limits of ``payload.jsonable``, is replaced and the attribute's name listed in
    ``papyra.fact.enc_error``; what makes the line too long is cut and listed in ``papyra.fact.truncated``.
    """
    global _last_plain  # noqa: PLW0603 - what is forwarded next was mostly encoded just before
    attributes = fact.attributes
    try:
        if not plain(attributes):
            attributes = replaced_in(attributes)
        elif attributes and fact.actor is not None:
            encoded = _encoded_plain(fact, writer or fact.writer or "", seq or fact.seq or 0)
            if encoded is not None and len(encoded) <= LINE_BYTES_MAX:
                _last_plain = attributes
                return encoded
    except RuntimeError:  # another thread is changing them
        attributes = replaced_in(attributes)
    line = Line(
        FORMAT,
        writer or fact.writer or "",
        seq or fact.seq or 0,
        format_time(fact.time_unix_nano),
        fact.kind,
        fact.name,
        fact.severity,
        fact.system,
        fact.actor,
        fact.trace_id,
        fact.span_id,
        attributes,
    )
    try:
        encoded = encode_line(line)
    except Exception:  # lone surrogates, and whatever else an odd value brings
        _make_encodable(line)
        encoded = encode_line(line)
    return encoded if len(encoded) <= LINE_BYTES_MAX else _shortened(line)


def encode_run(facts: Sequence[Fact], writer: str, first_seq: int) -> bytes:
    """Return the lines of facts of one stream, none with an identity yet: what *encode* returns for each, joined.

    At two thirds of the cost: what neighbours have in common is encoded once, and what they have not all together.
    """
    lines = _encoded_together(facts, writer, first_seq)
    if lines:
        return lines
    pieces: list[bytes] = []
    for _, alike in groupby(facts, _second_if_usual):
        stretch = list(alike)
        pieces.append(
            _encoded_together(stretch, writer, first_seq) or _one_by_one(stretch, writer, first_seq)
        )
        first_seq += len(stretch)
    return _join(pieces)


def _second_if_usual(fact: Fact) -> object:
    """Return the second of a fact with actor and attributes, False for others."""
    attributes: object = fact.attributes
    detailed = type_of(attributes) is dict and attributes != {}
    usual = detailed and fact.actor is not None and type(fact.time_unix_nano) is int
    return usual and fact.time_unix_nano // _NANOS_PER_SECOND


def _one_by_one(facts: Sequence[Fact], writer: str, first_seq: int) -> bytes:
    return _join([encode(fact, writer, seq) for seq, fact in enumerate(facts, first_seq)])


def _encoded_together(facts: Sequence[Fact], writer: str, first_seq: int) -> bytes:
    """Return the lines of facts of one second; nothing if there are few, or anything is odd about one of them."""
    if len(facts) < _TOGETHER_MIN:
        return b""
    try:
        return _together(facts, writer, first_seq)
    except (ValueError, TypeError, RuntimeError, OverflowError, msgspec.MsgspecError):
        return b""


def _together(facts: Sequence[Fact], writer: str, first_seq: int) -> bytes:
    times = [fact.time_unix_nano for fact in facts]
    seconds = times[0] // _NANOS_PER_SECOND
    if (
        seconds < 1
        or min(times) // _NANOS_PER_SECOND != seconds
        or max(times) // _NANOS_PER_SECOND != seconds
    ):
        raise ValueError("not of one second")
    second = b',"time":"%b.' % _second_of(times[0])
    known = str(seconds).encode()
    nanos = _encode(times)[1 + len(known) : -1].replace(b"," + known, b",").split(b",")
    actors = [fact.actor for fact in facts]
    if None in actors or {*map(type, times)} != {int}:
        raise ValueError("no actor, or no time")
    seqs = _encode([*range(first_seq, first_seq + len(facts))])[1:-1].split(b",")
    encoded = _each_encoded(actors)
    betweens: list[bytes] = []
    name = severity = None
    before = between = b""
    for at, fact in enumerate(facts):
        if fact.name is not name or fact.severity is not severity:
            name, severity = fact.name, fact.severity
            before, between = _remembered_or_new((writer, fact.kind, name, severity, fact.system))
            between = b'Z"' + between
        betweens.append(between)
        if fact.trace_id is not None or fact.span_id is not None:
            encoded[at] += _trace(fact.trace_id, fact.span_id)
    details = _each_plain([fact.attributes for fact in facts])
    pieces = (
        repeat(before),
        seqs,
        repeat(second),
        nanos,
        betweens,
        encoded,
        repeat(b',"attributes":'),
        details,
    )
    bodies = list(map(_join, zip(*pieces, strict=False)))
    sums = [crc32(b"}", each) for each in map(crc32, bodies)]
    texts = pack(f">{len(sums)}I", *sums).hex(",", 4).encode()
    ends = b',"crc":"%b"}\n' % texts.replace(b",", b'"}\n\0,"crc":"')
    lines = _join(chain.from_iterable(zip(bodies, ends.split(b"\0"), strict=True)))
    if len(lines) > LINE_BYTES_MAX and max(map(len, bodies)) > LINE_BYTES_MAX - _CRC_MEMBER_BYTES - 1:
        raise ValueError("a line that has to be cut")
    return lines


def _each_encoded(values: Sequence[object]) -> list[bytes]:
    """Return *values* encoded. JSON has no line end within a value."""
    return _encoder.encode_lines(values).split(b"\n")[:-1]


def _each_plain(attributes: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return *attributes* encoded. Raises ValueError if any of them is empty, or not what JSON holds faithfully."""
    if (
        {*map(type_of, attributes)} != {dict}
        or not all(attributes)
        or {*map(type, chain.from_iterable(attributes))} != {str}
    ):
        raise ValueError("attributes that are no plain mappings of texts")
    kinds = {*map(type_of, chain.from_iterable(map(dict.values, attributes)))}  # type: ignore[arg-type]
    encoded = _encoder.encode_lines(attributes)
    infinite = float in kinds and b"null" in encoded  # which is what stands for it then
    simple = kinds <= _SIMPLE and not infinite
    if not simple and not all(map(plain, attributes)):
        raise ValueError("a value that JSON does not hold")
    return encoded.split(b"\n")[:-1]


def _encoded_plain(fact: Fact, writer: str, seq: int) -> bytes | None:
    """Return the line of an ordinary fact, or None: the same bytes at two thirds of the cost.

    What recurs from fact to fact is taken from what was encoded before.
    """
    global _second  # noqa: PLW0603 - most facts are of the same second as the one before
    key = (writer, fact.kind, fact.name, fact.severity, fact.system)
    time_unix_nano = fact.time_unix_nano
    seconds = time_unix_nano // 1_000_000_000
    trace_id = fact.trace_id
    try:
        recurring = _recurring.get(key) or _remembered(key)
        known, second = _second
        if seconds != known:
            second = _second_of(time_unix_nano)
            _second = seconds, second  # one assignment: threads see a matching pair
        body = b'%b%d,"time":"%b.%09dZ"%b%b%b,"attributes":%b' % (
            recurring[0],
            seq,
            second,
            time_unix_nano - seconds * 1_000_000_000,
            recurring[1],
            _encode(fact.actor),
            b"" if trace_id is None and fact.span_id is None else _trace(trace_id, fact.span_id),
            _encode(fact.attributes),
        )
    except (ValueError, TypeError, OverflowError, msgspec.MsgspecError):  # odd texts: see below
        return None
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(b"}", zlib.crc32(body)))


def _remembered_or_new(key: tuple[str, FactKind, str, str, str]) -> tuple[bytes, bytes]:
    return _recurring.get(key) or _remembered(key)


def _second_of(time_unix_nano: int) -> bytes:
    """Return a time up to its seconds. Raises ValueError for one that *format_time* would have to bend."""
    if not 0 <= time_unix_nano <= MAX_UNIX_NANO:
        raise ValueError("outside the years 1970 to 9999")
    return format_time(time_unix_nano)[:19].encode()


def _remembered(key: tuple[str, FactKind, str, str, str]) -> tuple[bytes, bytes]:
    """Encode what stands before the seq, and between the time and the actor."""
    writer, kind, name, severity, system = key
    pieces = (
        b'{"v":%d,"writer":%b,"seq":' % (FORMAT, _encode(writer)),
        b',"kind":%b,"name":%b,"severity":%b,"system":%b,"actor":'
        % (_encode(kind), _encode(name), _encode(severity), _encode(system)),
    )
    if len(_recurring) >= _RECURRING_MAX:
        _recurring.clear()
    if len(pieces[1]) < NAME_CHARS_MAX and all(
        type(text) is str for text in (writer, name, severity, system)
    ):
        _recurring[key] = pieces
    return pieces


def _trace(trace_id: str | None, span_id: str | None) -> bytes:
    return (b"" if trace_id is None else b',"trace_id":%b' % _encode(trace_id)) + (
        b"" if span_id is None else b',"span_id":%b' % _encode(span_id)
    )


def encode_line(line: Line) -> bytes:
    """Return the bytes of *line* with its checksum and line end. Raises what msgspec raises."""
    return sign(_encoder.encode(line))


def sign(body: bytes) -> bytes:
    """Return *body*, a JSON object that is not empty, as a line with its checksum as the last member."""
    return b'%b,"crc":"%08x"}\n' % (body[:-1], zlib.crc32(body))


def signed(data: bytes) -> bool:
    """Say whether *data*, a line without its line end, has the checksum that *sign* gives it."""
    crc_at = len(data) - _CRC_MEMBER_BYTES
    return crc_at > 0 and data[crc_at:] == b',"crc":"%08x"}' % zlib.crc32(b"}", zlib.crc32(data[:crc_at]))


def parse(data: bytes) -> Line:
    """Return what is in *data*, one line without its line end, after verifying it.

    Raises LineDamaged, whose ``anomaly`` says in what way, and LogTooNew for an unknown higher version.
    """
    _verify(data)
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise LineDamaged("schema_invalid", str(error)) from None


def outline(data: bytes) -> Outline:
    """Return what is in *data* without decoding its attributes: a fact, a header or a seal, all members checked.

    Raises as *parse* does, and LineDamaged where *to_fact* would.
    """
    crc_at = len(data) - _CRC_MEMBER_BYTES  # as in *signed*, written out: a scan spends its time here
    if not data.startswith(_OURS) or data[crc_at:] != b',"crc":"%08x"}' % crc32(b"}", crc32(data[:crc_at])):
        _verify(data)
    try:
        found = _outline_decoder.decode(data)
        if not data.isascii():
            data.decode()  # what is skipped over is not looked at by the decoder
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise LineDamaged("schema_invalid", str(error)) from None
    if (
        found.v != FORMAT
        or found.seq < 0
        or found.kind not in _OUTLINED
        or memoryview(found.attributes)[0] != _BRACE
        or not _is_writer(found.writer)
        or not is_time(found.time)
    ):
        raise LineDamaged(
            "schema_invalid", "v, writer, seq, time, kind or attributes are not a line's of ours"
        )
    return found


@lru_cache(maxsize=1024)
def _is_writer(text: str) -> bool:
    return _WRITER.fullmatch(text) is not None


def _verify(data: bytes) -> None:
    """Raise LineDamaged or LogTooNew unless *data* has the shape and the checksum of a line."""
    if data.startswith(_OURS) and signed(data):
        return
    version = _VERSION.match(data)
    if version is not None and int(version[1]) > FORMAT:
        raise _newer_or_damaged(data, version)
    crc_at = len(data) - _CRC_MEMBER_BYTES
    if crc_at <= 0 or data[crc_at : crc_at + 8] != b',"crc":"' or not data.endswith(b'"}'):
        raise LineDamaged(*_unsigned(data, version is not None))
    wanted = b"%08x" % zlib.crc32(b"}", zlib.crc32(memoryview(data)[:crc_at]))
    if data[crc_at + 8 : -2] != wanted:
        raise LineDamaged("crc_mismatch", f"the checksum should be {wanted.decode()}")


def decode(data: bytes) -> Fact:
    """Return the fact in *data*, one line without its line end. Raises as *parse* does."""
    return to_fact(parse(data))


def to_fact(line: Line) -> Fact:
    """Return the fact that *line* holds. Raises LineDamaged when its members are not a fact's."""
    kind = _KINDS.get(line.kind)
    if kind is None:
        raise LineDamaged("schema_invalid", f"{line.kind!r} is not a kind of fact")
    if line.v != FORMAT or line.seq < 0 or not _is_writer(line.writer):
        raise LineDamaged("schema_invalid", "v, writer or seq is out of range")
    try:
        time_unix_nano = parse_time(line.time)
    except ValueError as error:
        raise LineDamaged("schema_invalid", str(error)) from None
    return Fact(
        kind=kind,
        name=line.name,
        time_unix_nano=time_unix_nano,
        system=line.system,
        actor=line.actor,
        severity=line.severity,
        trace_id=line.trace_id,
        span_id=line.span_id,
        attributes=line.attributes,
        writer=line.writer,
        seq=line.seq,
    )


def faithful(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of *attributes* as *encode* would write them: JSON and UTF-8 hold every value as it is.

    Those that *encode* took last are not looked at again: do not change attributes between the two.
    """
    if attributes is _last_plain:
        return dict(attributes)
    if not plain(attributes):
        return replaced_in(attributes)
    for value in attributes.values():
        if not (type(value) is str and value.isascii()) and isinstance(value, (str, list)):
            try:
                _encoder.encode(value)
            except UnicodeEncodeError:
                return replaced_in(attributes)
    return dict(attributes)


def _newer_or_damaged(data: bytes, version: re.Match[bytes]) -> LogTooNew | LineDamaged:
    """Tell a newer version's line from one of ours whose version was hit: damage must not stop readers.

    So a newer format has to keep how a line begins, and the checksum it ends with.
    """
    if signed(data):
        return LogTooNew("a line", int(version[1]))
    return LineDamaged("crc_mismatch", f"neither of version {FORMAT} nor a whole line of a newer one")


def _unsigned(data: bytes, ours: bool) -> tuple[str, str]:
    if not ours:
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass
        else:
            return "foreign_json", "JSON, but not a fact line"
    return "corrupt_line", "no checksum at its end"


# --- odd lines: everything below runs only when something is out of the ordinary -------------------


def _make_encodable(line: Line) -> None:
    """Make every text of *line* valid UTF-8."""
    for member in _TEXTS:
        value = getattr(line, member)
        if value is not None:
            setattr(line, member, str(jsonable(value)))
    line.attributes = replaced_in(line.attributes)


def _shortened(line: Line) -> bytes:
    """Return *line* cut to size: the largest attributes first, saying which."""
    cut: list[str] = []
    for member in _TEXTS:
        value = getattr(line, member)
        if value is not None and len(value) > NAME_CHARS_MAX:
            setattr(line, member, value[:NAME_CHARS_MAX] + "…")
            cut.append(member)
    given = dict(islice(line.attributes.items(), ATTRIBUTES_MAX))
    if len(given) < len(line.attributes):
        cut.append(f"{len(line.attributes) - len(given)} attributes")
    encoded = b""
    for chars_max in _SHORTER_CHARS:
        attributes, names = cut_to_size(given, chars_max, LINE_BYTES_MAX - len(_with(line, {}, cut)))
        encoded = _with(line, attributes, cut + names)
        if len(encoded) <= LINE_BYTES_MAX:
            break
    return encoded


def _with(line: Line, attributes: dict[str, Any], cut: list[str]) -> bytes:
    line.attributes = attributes | {semconv.FACT_TRUNCATED: cut}
    return encode_line(line)
