"""The small parts, each against a model so simple that it is right."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from log.examples import INT64
from papyra_otel.errors import ConfigError
from papyra_otel.facts import FactKind
from papyra_otel.log import open_log
from papyra_otel.log.cursor import Vector, parse_cursor
from papyra_otel.log.file import lines
from papyra_otel.log.file.fs import OS
from papyra_otel.log.file.layout import SegmentName, folder_of_system, root_of_url, system_of_folder
from papyra_otel.log.retention import KindRetention, parse_retention
from papyra_otel.log.seqset import SeqSet
from papyra_otel.log.times import MAX_UNIX_NANO, format_time, parse_time, unix_nano_of

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# --- times -----------------------------------------------------------------------------------------


@given(st.integers(0, MAX_UNIX_NANO))
def test_every_nanosecond_survives_as_text(moment: int) -> None:
    text = format_time(moment)
    assert parse_time(text) == moment
    seconds, nanos = divmod(moment, 10**9)
    assert (
        text == f"{(EPOCH + timedelta(seconds=seconds)).strftime('%Y-%m-%dT%H:%M:%S').zfill(19)}.{nanos:09d}Z"
    )


@given(st.integers(0, MAX_UNIX_NANO), st.integers(0, MAX_UNIX_NANO))
def test_text_order_is_time_order(one: int, two: int) -> None:
    assert (one < two) == (format_time(one) < format_time(two))


def test_a_json_number_would_not_do() -> None:
    now = 1_795_377_765_123_456_789
    assert int(float(now)) != now
    assert parse_time(format_time(now)) == now


@pytest.mark.parametrize(("moment", "nearest"), [(-1, 0), (-(10**30), 0), (MAX_UNIX_NANO + 1, MAX_UNIX_NANO)])
def test_times_out_of_range_become_the_nearest(moment: int, nearest: int) -> None:
    assert format_time(moment) == format_time(nearest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-22T20:02:45Z",
        "2026-11-22T20:02:45.123Z",
        "2026-11-22T20:02:45.123456789+",
        "2026-11-22 20:02:45.123456789Z",
        "2026-11-22T20:02:45,123456789Z",
        "2026-11-22T20:02:45.12345678xZ",
        "2026-11-22T20:02:45.-23456789Z",
        "2026-11-22T20:02:45.12345678٣Z",
        "٢026-11-22T20:02:45.123456789Z",
        "2026-02-30T20:02:45.123456789Z",
        "2026-11-22T24:02:45.123456789Z",
    ],
)
def test_other_forms_of_time_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|does not match|out of range|unconverted"):
        parse_time(text)


OFFSETS = st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))


@given(st.datetimes(timezones=OFFSETS))
@example(datetime.max.replace(tzinfo=timezone(timedelta(hours=-9))))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=9))))
def test_datetimes_are_converted_to_the_microsecond(moment: datetime) -> None:
    assert timedelta(microseconds=unix_nano_of(moment) // 1000) == moment - EPOCH
    assert unix_nano_of(moment) % 1000 == 0


# --- lines -----------------------------------------------------------------------------------------


@contextmanager
def opened(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def whole_lines(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return (begin, end, line) of every terminated line; the model of both directions."""
    found: list[tuple[int, int, bytes]] = []
    begin = 0
    for line in data.split(b"\n")[:-1]:
        end = begin + len(line) + 1
        found.append((begin, end, b"" if len(line) >= lines.LINE_BYTES_MAX else line))
        begin = end
    return found


FILES = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"\n", b"\r\n", b"\0\0\0\n", b"\n\n", b"x" * 19, b"x" * 20, b"y" * 21, b"z" * 90, b'{"a":1}\n']
        ),
    ),
    max_size=12,
).map(b"".join)


@given(FILES, st.integers(1, 24), st.integers(1, 24), st.data())
def test_lines_are_the_same_from_both_ends(data: bytes, chunk: int, block: int, draw: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch, opened(data) as fd:
        patch.setattr(lines, "_CHUNK_BYTES", chunk)
        patch.setattr(lines, "_BLOCK_BYTES", block)
        patch.setattr(lines, "LINE_BYTES_MAX", 20)
        expected = whole_lines(data)
        assert list(lines.lines_forward(OS, fd, 0)) == [(end, line) for _, end, line in expected]
        backward = [(begin, line) for begin, _, line in reversed(expected)]
        assert list(lines.lines_backward(OS, fd, len(data))) == backward
        assert lines.count_lines(OS, fd) == (len(expected), expected[-1][1] if expected else 0)
        assert lines.end_of_lines(OS, fd) == (expected[-1][1] if expected else 0)
        if expected:
            edge = draw.draw(st.sampled_from([begin for begin, _, _ in expected]))
            rest = [(end, line) for begin, end, line in expected if begin >= edge]
            assert list(lines.lines_forward(OS, fd, edge)) == rest
            before = [(begin, line) for begin, end, line in reversed(expected) if end <= edge]
            assert list(lines.lines_backward(OS, fd, edge)) == before


def test_an_endless_line_takes_little_memory() -> None:
    with pytest.MonkeyPatch.context() as patch, opened(b"a\n" + b"x" * 3_000_000 + b"\nb\n") as fd:
        patch.setattr(lines, "LINE_BYTES_MAX", 1000)
        assert list(lines.lines_forward(OS, fd, 0)) == [(2, b"a"), (3_000_003, b""), (3_000_005, b"b")]
        assert list(lines.lines_backward(OS, fd, 3_000_005)) == [(3_000_003, b"b"), (2, b""), (0, b"a")]


# --- sets of sequence numbers ----------------------------------------------------------------------


@given(st.lists(st.integers(0, 30)))
def test_a_seqset_is_a_set(seqs: list[int]) -> None:
    seen, model = SeqSet(), set[int]()
    for seq in seqs:
        assert seen.add(seq) == (seq not in model)
        model.add(seq)
    for seq in range(31):
        assert SeqSet.add(seen, seq) == (seq not in model)


def test_a_seqset_of_neighbours_is_one_range() -> None:
    seen = SeqSet()
    for seq in [*range(0, 1000, 2), *range(999, 0, -2)]:
        assert seen.add(seq)
    assert (seen._starts, seen._ends) == ([0], [999])


# --- cursors ---------------------------------------------------------------------------------------

POSITIONS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 9))


@given(
    st.dictionaries(st.text("ab", max_size=2), POSITIONS),
    st.lists(st.tuples(st.text("ab", max_size=2), POSITIONS)),
)
def test_a_vector_is_a_dict(
    base: dict[str, tuple[int, ...]], moves: list[tuple[str, tuple[int, ...]]]
) -> None:
    vector, model = Vector(base), dict(base)
    past = [(vector, dict(model))]
    for source, position in moves * 3:
        vector = vector.moved(source, position)
        model[source] = position
        past.append((vector, dict(model)))
    for kept, expected in past:
        assert kept.positions() == expected
        for newest_first in (False, True):
            text = kept.render(newest_first=newest_first)
            assert parse_cursor(text, newest_first=newest_first) == expected
            with pytest.raises(ConfigError, match="other direction"):
                parse_cursor(text, newest_first=not newest_first)


def test_a_long_walk_is_folded() -> None:
    vector = Vector({})
    for n in range(1000):
        vector = vector.moved("a", (n,))
    steps = 0
    at: Vector | None = vector
    while at is not None:
        at, steps = at.previous, steps + 1
    assert steps <= 66
    assert vector.positions() == {"a": (999,)}


@given(st.text(), st.booleans())
def test_any_text_is_a_cursor_or_a_config_error(text: str, newest_first: bool) -> None:
    for garbage in (text, "f1." + text, "b1." + text):
        try:
            positions = parse_cursor(garbage, newest_first=newest_first)
        except ConfigError:
            continue
        assert all(min(position) >= -1 for position in positions.values())


@pytest.mark.parametrize("position", [(), (-1,), (0, -1), (0, 0, -2), (2**63,)])
def test_impossible_positions_are_refused(position: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        parse_cursor(Vector({"a": position}).render(newest_first=False), newest_first=False)


# --- retention -------------------------------------------------------------------------------------

EVERY = KindRetention(max_records=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" ; ;", {}),
        ("events=100", {FactKind.EVENT: KindRetention(max_records=100)}),
        ("event=100", {FactKind.EVENT: KindRetention(max_records=100)}),
        ("5", dict.fromkeys(FactKind, EVERY)),
        (
            "events=7d,1GiB;dead_letters=90d;audits=100000",
            {
                FactKind.EVENT: KindRetention(max_age_seconds=7 * 86_400, max_bytes=1 << 30),
                FactKind.DEAD_LETTER: KindRetention(max_age_seconds=90 * 86_400),
                FactKind.AUDIT: KindRetention(max_records=100_000),
            },
        ),
        (
            " audits = 1 w , 2 kB , 3 ; ",
            {FactKind.AUDIT: KindRetention(max_records=3, max_age_seconds=604_800, max_bytes=2000)},
        ),
        ("audits=90s,1B", {FactKind.AUDIT: KindRetention(max_age_seconds=90, max_bytes=1)}),
        ("audits=2m", {FactKind.AUDIT: KindRetention(max_age_seconds=120)}),
        ("audits=2h,2TiB", {FactKind.AUDIT: KindRetention(max_age_seconds=7200, max_bytes=2 << 40)}),
        (
            "audits=3MB;events=3MiB",
            {
                FactKind.AUDIT: KindRetention(max_bytes=3_000_000),
                FactKind.EVENT: KindRetention(max_bytes=3 << 20),
            },
        ),
    ],
)
def test_retention_is_read(text: str, expected: dict[FactKind, KindRetention]) -> None:
    retention = parse_retention(text)
    assert retention.by_kind == expected
    for kind in FactKind:
        assert retention.of(kind) == expected.get(kind, KindRetention())
        assert retention.of(kind).unlimited == (kind not in expected)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("event s=5", "'event s'"),
        ("dramas=5", "'dramas'"),
        ("=5", "''"),
        ("events=", "''"),
        ("events=5,", "''"),
        ("events=0", "'0'"),
        ("events=0d", "'0d'"),
        ("events=-5", "'-5'"),
        ("events=1.5d", "'1.5d'"),
        ("events=5x", "'x'"),
        ("events=5D", "'D'"),
        ("events=5gib", "'gib'"),
        ("events=5,6", "'6'"),
        ("events=5d,1h", "'1h'"),
        ("events=5;events=6", "events is given twice"),
        ("5;audits=6", "audits is given twice"),
        ("events=\uff15", "'\uff15'"),
        ("events=" + "9" * 19, "'9999999999999999999'"),
        ("events=7d|audits=1", "'events=7d|audits'"),
    ],
)
def test_retention_that_is_not_understood_is_quoted(text: str, quoted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_retention(text)
    assert quoted in str(caught.value)
    assert "events=7d,1GiB;dead_letters=90d;audits=100000" in str(caught.value)


# --- names of folders and files --------------------------------------------------------------------

SYSTEMS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.text("./%~ \0aA-_", max_size=8),
    st.text("aé%.", min_size=150, max_size=400),
)


@given(SYSTEMS, SYSTEMS)
def test_every_system_has_a_safe_folder_of_its_own(one: str, two: str) -> None:
    folder = folder_of_system(one)
    assert folder not in {"", ".", ".."}
    assert not folder.startswith((".", "/"))
    assert "/" not in folder
    assert folder.isascii()
    assert folder.isprintable()
    assert len(folder) <= 255
    assert (folder == folder_of_system(two)) == (one == two)
    if "~" in folder:
        assert len(one.encode()) * len("%00") > 200
    whole = system_of_folder(folder)
    assert whole == one if "~" not in folder else one.startswith(whole.rstrip("\ufffd"))


def test_plain_system_names_are_their_folders() -> None:
    for name in ("orders", "Shop-7_b", "v1.2"):
        assert folder_of_system(name) == name


@given(INT64.filter(lambda n: 0 <= n < MAX_UNIX_NANO), st.integers(1, 10**8))
def test_segment_names_round_trip(moment: int, number: int) -> None:
    name = SegmentName.new(moment, "9f2c41d07be3a815", number)
    assert SegmentName.parse(str(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "20261122T200245Z-9f2c41d07be3a815-000001.ndjson.tmp",
        ".20261122T200245Z-9f2c41d07be3a815-000001.ndjson",
        "20261122T200245Z-9F2C41D07BE3A815-000001.ndjson",
        "20261122T200245Z-9f2c41d07be3a815-00001.ndjson",
        "20261122T200245Z-9f2c41d07be3a815-000001.ndjson\n",
        "٢0261122T200245Z-9f2c41d07be3a815-000001.ndjson",
    ],
)
def test_other_files_are_no_segments(name: str) -> None:
    assert SegmentName.parse(name) is None


# --- URLs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:facts", "facts"),
        ("file:a/b c", "a/b c"),
        ("file:/abs/dir", "/abs/dir"),
        ("file:///abs/dir", "/abs/dir"),
        ("file://localhost/abs", "/abs"),
        ("file:///with%20space%3F", "/with space?"),
        ("file:../up", "../up"),
        ("file:///", "/"),
    ],
)
def test_file_urls_are_folders(url: str, path: str) -> None:
    assert root_of_url(url) == path


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("file:", "file:relative/dir"),
        ("file://", "file:relative/dir"),
        ("file://host/dir", "file:///host/dir"),
        ("file://relative", "file:///relative"),
        ("file:dir?x=1", "%3F"),
        ("file:dir#x", "%23"),
        ("file:a%00b", "file:relative/dir"),
        ("facts", "file:facts"),
        ("/var/facts", "file:/var/facts"),
        ("", "no scheme"),
        ("redis2://x", "known are file, memory"),
        ("file", "file:file"),
    ],
)
def test_a_wrong_url_is_refused_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_log(url)
    assert remedy in str(caught.value)


def test_opening_touches_nothing(tmp_path: Path) -> None:
    open_log(f"file:{tmp_path}/new").close()
    assert list(tmp_path.iterdir()) == []


def test_credentials_in_a_wrong_url_are_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        open_log("nosuch://user:hunter2@host/0")
    assert "hunter2" not in str(caught.value)
