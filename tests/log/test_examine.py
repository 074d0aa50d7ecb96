"""Every damage that can be thought of, one by one: nothing good is lost, nothing bad believed, nothing left out.

What is right is judged by the bytes alone: a line that stands whole in the damaged file must be found there, and
nothing may be found that was not written. All sets run under ``nox -s integrity``; a part of each always, and
each must catch the faults put into the code below.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import pytest

from log.damage import (
    NOW,
    BytesFs,
    Case,
    Made,
    byte_cases,
    fact_line,
    flips,
    header_line,
    insertions,
    line_cases,
    made_segment,
    nul_tails,
    other_lines,
    torn_and_glued,
    truncations,
)
from log.examples import signed_by_hand
from papyra_otel.facts import FactKind
from papyra_otel.log.codec import LINE_BYTES_MAX, Outline, outline, sign
from papyra_otel.log.explained import Explanations
from papyra_otel.log.file import continuity, examine, summary
from papyra_otel.log.file.continuity import judge
from papyra_otel.log.file.examine import DAMAGED, FACT, HEADER, IN_FLIGHT, NEWER, SEAL, Digests, Span
from papyra_otel.log.file.folder import LogFolder, StreamFolder
from papyra_otel.log.file.summary import Summary, summarise
from papyra_otel.reports import Anomaly

STATES = ("sealed", "unsealed", "alive")
KINDS = ("event", "audit")
GOOD = (FACT, HEADER, SEAL)


def spans_of(data: bytes, *, alive: bool = False, digests: Digests | None = None) -> list[Span]:
    fs = BytesFs({"/f": data})
    return list(examine.examine(fs, fs.open_read("/f"), len(data), alive=alive, digests=digests))


def summary_of(made: Made, data: bytes) -> Summary:
    fs = BytesFs({made.path: data}, {made.path} if made.alive else set())
    stream = StreamFolder(made.path.rpartition("/")[0], "shop", FactKind(made.kind))
    found = summarise(LogFolder(fs=fs, root="/log"), stream, made.name, NOW)
    assert found is not None
    return found


def anomalies_of(*found: Summary) -> list[Anomaly]:
    told = [each for one in found for each in (*one.explained, *one.low_marks)]
    return [
        *(anomaly for one in found for anomaly in one.tally.kept),
        *judge(found, Explanations(told)),
    ]


def types_of(made: Made, data: bytes) -> Counter[str]:
    return Counter(anomaly.type for anomaly in anomalies_of(summary_of(made, data)))


@cache
def outlines_of(made: Made) -> dict[bytes, Outline]:
    """Return what each line says, checked with nothing of ours."""
    found: dict[bytes, Outline] = {}
    for line in made.lines:
        said = found[line[:-1]] = outline(line[:-1])
        members = json.loads(line)
        assert said.details() == members["attributes"]
        assert all(getattr(said, name) == members[name] for name in ("writer", "seq", "time", "kind", "name"))
    return found


def check_spans(made: Made, data: bytes, spans: Iterable[Span]) -> None:
    """Judge *spans* of *data*, which was damaged, by the bytes alone."""
    whole = outlines_of(made)
    found: Counter[bytes] = Counter()
    at = flying = 0
    for span in spans:
        assert span.offset == at
        assert span.length > 0
        at += span.length
        if span.what in GOOD:
            body = data[span.offset : span.end].removesuffix(b"\n")
            assert body in whole, "what was not written is believed"
            assert (span.anomaly is None) == (data[span.end - 1] == 0x0A)
            assert span.outline == whole[body]
            found[body] += 1
        else:
            assert span.outline is None
        flying += span.length if span.what is IN_FLIGHT else 0
    assert at == len(data), "not every byte is accounted for"
    assert not flying or (made.alive and b"\n" not in data[-flying:])
    looked_at = data[: len(data) - flying]
    for body in whole:
        assert found[body] == looked_at.count(body), "a good record is lost"


def check_sums(found: Summary, data: bytes) -> None:
    scan = found.scan
    parts = scan.good_bytes + scan.mark_bytes + scan.newer_bytes + scan.damaged_bytes + scan.in_flight_bytes
    assert scan.size_bytes == len(data) == parts


def undetectable(made: Made, data: bytes) -> bool:
    """The only damage to one segment that nothing may be said about. docs/integrity.md names the same."""
    if made.sealed:
        return False
    *lines, tail = data.split(b"\n")
    kept = tuple(line + b"\n" for line in lines)
    if (
        made.alive
    ):  # what follows the last line end, and whole facts: its writer may be writing, or explain, them
        rest = iter(made.lines)
        return not kept or (kept[0] == made.lines[0] and all(line in rest for line in kept))
    return not tail and kept == made.lines[: len(kept)]  # whole lines are gone from its end, perhaps all


def check(made: Made, cases: Iterable[Case]) -> int:
    """Judge every case; return how many."""
    usual = types_of(made, made.data)
    assert set(usual) <= ({"unclean_shutdown"} if not made.sealed else set())
    count = 0
    spans: list[Span] = []

    def examined(*arguments: Any, **options: Any) -> Iterator[Span]:
        spans[:] = examine.examine(*arguments, **options)
        return iter(spans)

    for case in cases:
        count += 1
        try:
            data = case.data
            spans.clear()
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(summary, "examine", examined)
                found = summary_of(made, data)
            check_spans(made, data, spans)
            check_sums(found, data)
            if data != made.data and not undetectable(made, data):
                types = Counter(anomaly.type for anomaly in anomalies_of(found))
                assert types - usual, "a change goes unnoticed"
        except AssertionError as error:
            raise AssertionError(f"{case.what} at {case.first} of {made.kind}: {error}") from error
    return count


SETS: dict[str, Callable[[Made], Iterator[Case]]] = {
    "flip": lambda made: flips(made.data),
    "byte": lambda made: byte_cases(made.data),
    "insert": lambda made: insertions(made.data),
    "truncate": lambda made: truncations(made.data),
    "nul": lambda made: nul_tails(made.data),
    "glue": lambda made: torn_and_glued(made.lines),
}


def small(kind: str, state: str) -> Made:
    """Return a segment with facts of each odd payload, so that every byte of it can be hit."""
    return made_segment(range(6 if state == "sealed" else 5), kind, state=state)


# --- every bit, every byte ------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_of_a_small_segment(kind, state, which):
    made = small(kind, state)
    assert check(made, SETS[which](made)) > 1_000


@pytest.mark.exhaustive
def test_these_are_enough_cases():
    segments = [small(kind, state) for kind in KINDS for state in STATES]
    assert sum(1 for made in segments for cases in SETS.values() for _ in cases(made)) > 200_000


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("state", STATES)
def test_some_damages_of_a_small_segment(state, which):
    made = small("event", state)
    assert check(made, islice(SETS[which](made), 3, None, 41)) > 30


def sampled(data: bytes) -> list[int]:
    """Every byte of the beginnings and ends of all lines, and each 997th in between."""
    at: set[int] = set(range(0, len(data), 997))
    end = 0
    while end < len(data):
        begin, end = end, data.index(b"\n", end) + 1
        at |= set(range(begin, min(begin + 24, end))) | set(range(max(begin, end - 24), end))
    return sorted(at)


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", ["flip", "byte", "insert", "truncate"])
def test_damages_of_long_lines(which):
    """Lines of 1 B to 64 KiB of payload, the places to hit sampled."""
    sizes = (1, 300, 4096, 65_536)
    facts = {seq: {"attributes": {"p": "ö" * (size // 2)}} for seq, size in enumerate(sizes)}
    made = made_segment(range(4), facts=facts)
    at = sampled(made.data)
    way = {"flip": flips, "byte": byte_cases, "insert": insertions, "truncate": truncations}[which]
    every = 4 if which in {"flip", "insert"} else 1
    assert check(made, islice(way(made.data, at), 0, None, every)) > 300


def test_a_flipped_bit_is_told_as_what_it_is():
    made = small("event", "unsealed")
    line_at = len(made.lines[0])
    line = made.lines[1]
    for case in flips(made.data, range(line_at, line_at + len(line) - 20)):
        if case.data[case.first] != 0x0A:
            types = types_of(made, case.data)
            assert types == Counter(crc_mismatch=1, gap=1, unclean_shutdown=1), case.what
    for case in flips(made.data, [line_at + len(line) - 1]):
        assert types_of(made, case.data)["lost_newline"] == 1
    for case in truncations(made.data, range(len(made.data) - 60, len(made.data) - 1)):
        assert types_of(made, case.data) == Counter(torn_tail=1, unclean_shutdown=1)
    assert types_of(made, made.data[:-1]) == Counter(lost_newline=1, unclean_shutdown=1)
    for case in torn_and_glued(made.lines[:3]):
        if line_at < case.first < line_at + len(line) - 2:
            damaged = case.data + b"".join(made.lines[3:])
            assert types_of(made, damaged) == Counter(torn_inside=1, gap=1, unclean_shutdown=1)


# --- whole lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_lines_lost_doubled_and_swapped(kind, state):
    check_lines(small(kind, state))


def check_lines(made: Made) -> None:
    usual = types_of(made, made.data)
    marks = {0, len(made.lines) - 1} if made.sealed else {0}
    for what, number, lines in line_cases(made.lines):
        data = b"".join(lines) + made.tail
        found = summary_of(made, data)
        check_spans(made, data, spans_of(data, alive=made.alive))
        types = Counter(anomaly.type for anomaly in anomalies_of(found))
        new = set(types - usual)
        if made.sealed and lines[-1] == made.lines[-1] and lines != made.lines:
            assert "segment_digest" in new
        if what == "lose" and number in marks:
            assert ("head_missing" if number == 0 else "unclean_shutdown") in new
        elif what == "lose" and made.alive:  # its writer may explain it yet
            assert new == set()
        elif what == "lose":
            assert "gap" in new or number == len(made.lines) - 1
            assert new or undetectable(made, data)
        elif what == "double" and number not in marks:
            assert "duplicate" in new
            assert "fork_conflict" not in new
        elif what == "double":
            assert new & {"duplicate", "segment_digest"}
        else:
            assert new & {"out_of_order", "head_missing", "segment_digest"}


@pytest.mark.parametrize(
    ("expected", "line"), [*other_lines(2)], ids=lambda given: given if isinstance(given, str) else ""
)
@pytest.mark.parametrize("at", [1, 3])
def test_other_lines_are_told_as_what_they_are(expected, line, at):
    made = small("event", "unsealed")
    data = b"".join((*made.lines[:at], line, *made.lines[at:]))
    told = [span for span in spans_of(data) if span.what not in GOOD]
    assert [(span.anomaly, span.length) for span in told] == [(expected, len(line))]
    assert (told[0].what is NEWER) == (expected == "future_version")
    check_spans(made, data, spans_of(data))


def test_a_newer_header_is_no_missing_head():
    header = small("event", "unsealed").lines[0]
    newer = sign(header[: header.rindex(b',"crc":')].replace(b'{"v":1,', b'{"v":2,') + b"}")
    made = made_segment([], state="unsealed")
    assert types_of(made, newer + newer) == Counter(future_version=2)


def test_what_only_begins_like_a_newer_line_hides_no_good_one():
    made = small("event", "unsealed")
    torn = made.lines[1][:60].replace(b'{"v":1,', b'{"v":3,')
    data = made.lines[0] + torn + b"".join(made.lines[2:])
    check_spans(made, data, spans_of(data))
    assert types_of(made, data)["torn_inside"] == 1


# --- long lines, long damage ----------------------------------------------------------------------------


def long_line(seq: int, size: int) -> bytes:
    empty = len(fact_line(seq, attributes={"p": ""}))
    return fact_line(seq, attributes={"p": "x" * (size - empty)})


@pytest.mark.parametrize("size", [LINE_BYTES_MAX - 1, LINE_BYTES_MAX])
@pytest.mark.parametrize("before", [b"", b'{"v":1,"writer":"9f', b"y" * LINE_BYTES_MAX, b"\0" * 3_000_000])
def test_the_longest_lines_are_good_wherever_they_stand(size, before):
    line = long_line(1, size)
    spans = spans_of(before + line + line[:-1])
    assert [span.length for span in spans if span.what is FACT] == [size, size - 1]
    assert sum(span.length for span in spans) == len(before) + 2 * size - 1


@pytest.mark.parametrize("before", [b"", b"garbage", b"y" * LINE_BYTES_MAX])
def test_a_longer_line_is_not(before):
    data = before + long_line(1, LINE_BYTES_MAX + 1)
    assert {(span.what, span.anomaly) for span in spans_of(data)} == {(DAMAGED, "oversize_line")}


@pytest.mark.parametrize("glue", [b"\x0b", b"\0" * 40, b'{"v":1,"writer":"'])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_records_are_found_in_megabytes_without_a_line_end(glue, end):
    lines = tuple(fact_line(seq, attributes={"p": "z" * (seq % 97 * 300)}) for seq in range(300))
    made = Made(lines, sealed=False)
    data = glue.join(line[:-1] for line in lines) + b"\xfe" * 1_100_000 + end + header_line()
    spans = spans_of(data)
    assert len(data) > 5 * LINE_BYTES_MAX
    check_spans(Made((*lines, header_line())), data, spans)
    assert sum(span.what is FACT for span in spans) == len(made.lines)


@pytest.mark.parametrize(
    ("filler", "size", "anomaly"),
    [
        (b"\xfe", 5_000_000, "oversize_line"),
        (b"\0", 5_000_000, "nul_run"),
        (b'{"v":1,"writer":"', 5_000_000, "oversize_line"),
        (b'{"v":1,"writer":"0123456789abcdef","seq":', 60_000, "torn_inside"),
    ],
)
def test_long_garbage_is_one_damage(filler, size, anomaly):
    garbage = filler * (size // len(filler))
    spans = spans_of(fact_line(0) + garbage + fact_line(1))
    told = anomaly if size > LINE_BYTES_MAX else "torn_inside"
    assert [(span.what, span.anomaly) for span in spans] == [(FACT, None), (DAMAGED, told), (FACT, None)]


def test_a_run_of_line_ends_is_one_damage_however_it_is_read(monkeypatch):
    monkeypatch.setattr(examine, "_CHUNK_BYTES", 700)
    head, _, rest = small("event", "sealed").data.partition(b"\n")
    data = head + b"\n" + b"\n" * 5000 + b"?\n" + rest
    found = [(span.offset, span.length) for span in spans_of(data) if span.anomaly]
    assert found == [(len(head) + 1, 5000), (len(head) + 5001, 2)]


def test_a_living_writers_tail_is_in_flight_only_while_it_can_be_a_line():
    for size, what in ((LINE_BYTES_MAX - 1, IN_FLIGHT), (LINE_BYTES_MAX, DAMAGED), (3_000_000, DAMAGED)):
        assert {span.what for span in spans_of(b"x" * size, alive=True)} == {what}


def test_objects_that_look_like_lines_do_not_hide_the_one_they_are_in():
    inner = [{"v": 1, "crc": "00000000"} for _ in range(40)]
    line = fact_line(0, attributes={"a": inner, "n": 10**30})
    spans = spans_of(b'{"v":1,"writer":"torn' + line)
    assert [(span.what, span.length) for span in spans] == [(DAMAGED, 21), (FACT, len(line))]


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 18])
def test_what_is_found_does_not_depend_on_how_it_is_read(piece, monkeypatch):
    monkeypatch.setattr(examine, "_CHUNK_BYTES", piece)
    made = small("event", "sealed")
    for case in islice(torn_and_glued(made.lines), 0, None, 29):
        assert spans_of(case.data, digests=(digests := Digests())) == whole_spans(monkeypatch, case.data)
        monkeypatch.setattr(examine, "_CHUNK_BYTES", piece)
        again = Digests()
        again.feed(case.data, 0)
        assert digests.whole() == again.whole()


def whole_spans(monkeypatch: pytest.MonkeyPatch, data: bytes) -> list[Span]:
    monkeypatch.setattr(examine, "_CHUNK_BYTES", 1 << 20)
    return spans_of(data)


def test_memory_is_bounded_by_the_longest_line(monkeypatch):
    longest = 0
    salvaged = examine._salvaged

    def watched(data: bytes, *rest: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(data))
        return salvaged(data, *rest)

    monkeypatch.setattr(examine, "_salvaged", watched)
    spans_of(b"\xfe" * 9_000_000)
    assert longest <= 2 * LINE_BYTES_MAX + examine._CHUNK_BYTES


def test_a_file_that_is_shorter_than_it_was_is_covered_as_far_as_it_goes():
    fs = BytesFs({"/f": fact_line(0) * 3})
    spans = list(examine.examine(fs, fs.open_read("/f"), 10_000, alive=False))
    assert sum(span.length for span in spans) == len(fs.files["/f"])


# --- faults put into the code: each set must see them ---------------------------------------------------


def believing(line: bytes) -> Any:
    """Stand in for ``outline`` as one that does not look at the checksum."""
    try:
        return outline(line)
    except examine.LineDamaged as error:
        try:
            members = json.loads(line)
        except ValueError:
            raise error from None
        return outline(signed_by_hand({name: value for name, value in members.items() if name != "crc"}))


def shorter(offset: int, length: int, error: Any) -> Span:
    return Span(offset, max(length - 1, 1), DAMAGED, error.anomaly, None, error.detail)


def nothing(*_: Any) -> list[Any]:
    return []


FAULTS: dict[str, tuple[Any, str, Any, str, str]] = {
    # what: where, name, instead, the set that sees it, in which state
    "no checksum": (examine, "outline", believing, "flip", "unsealed"),
    "no salvage": (examine, "_records", nothing, "glue", "unsealed"),
    "one byte short": (examine, "_damaged", shorter, "byte", "unsealed"),
    "nothing in flight": (examine, "IN_FLIGHT", DAMAGED, "truncate", "alive"),
    "any line end will do": (examine, "_MARKER", re.compile(rb'\n\{"v":1,"writer":"'), "glue", "sealed"),
    "seals not verified": (summary._Reading, "end", nothing, "lines", "sealed"),
    "holes not looked for": (continuity, "_holes", nothing, "lines", "unsealed"),
    "heads not looked at": (summary._Reading, "_take_head", nothing, "lines", "unsealed"),
    "repeats not looked for": (summary, "repeats", nothing, "lines", "unsealed"),
    "any order": (summary.SeqSet, "add", lambda self, seq: False, "lines", "unsealed"),
    "damage not told": (summary.Tally, "add", nothing, "flip", "unsealed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_set_sees_a_fault_in_the_code(fault, monkeypatch):
    where, name, instead, which, state = FAULTS[fault]
    made = small("event", state)
    monkeypatch.setattr(where, name, instead)
    with pytest.raises(AssertionError):
        _try(which, made)


def _try(which: str, made: Made) -> None:
    if which == "lines":
        check_lines(made)
    else:
        check(made, islice(SETS[which](made), 0, None, 13))
