"""Line format v1: golden files, any value, any damage."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from log.examples import (
    ODD_NAMES,
    ODD_TEXT,
    ODD_VALUES,
    PLAIN_VALUES,
    TEXT,
    WRITER,
    Hostile,
    checked_by_hand,
    plain_facts,
    signed_by_hand,
)
from papyra_otel import semconv
from papyra_otel.errors import LineDamaged, LogTooNew
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import codec
from papyra_otel.log.codec import (
    LINE_BYTES_MAX,
    SEGMENT_OPEN,
    SEGMENT_SEAL,
    decode,
    encode,
    encode_run,
    faithful,
    parse,
    to_fact,
)
from papyra_otel.testing import make_fact

GOLDEN = Path(__file__).parent / "golden"


def stored(n: int = 0, **changes: Any) -> Fact:
    return make_fact(n, **changes).identified(WRITER, n)


def with_attributes(attributes: Mapping[Any, Any]) -> Fact:
    return stored(attributes=attributes)


# --- golden files: only ever added to --------------------------------------------------------------

EXPECTED_V1 = [
    Fact(
        kind=FactKind.EVENT,
        name="papyra.actor.exception",
        time_unix_nano=1_795_377_765_123_456_789,
        system="orders",
        actor="orders/worker-12",
        severity="ERROR",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        attributes={
            "papyra.actor.type": "shop.Worker",
            "exception.message": 'line one\nline "two"\\ \0 \x7f \u2028 ✓ 😀 é',
            "papyra.supervision.restart.count": 9223372036854775807,
            "least": -9223372036854775808,
            "wait": 0.001,
            "whole": 5.0,
            "large": 1e300,
            "yes": True,
            "no": False,
            "nothing": None,
            "list": ["a", "", "ü"],
        },
        writer="9f2c41d07be3a815",
        seq=0,
    ),
    Fact(
        kind=FactKind.AUDIT,
        name="papyra.audit.completed",
        time_unix_nano=0,
        system="",
        attributes={},
        writer="0000000000000000",
        seq=9223372036854775807,
    ),
    Fact(
        kind=FactKind.DEAD_LETTER,
        name="papyra.dead_letter.captured",
        time_unix_nano=253_402_300_799_999_999_999,
        system="Ünï/code ✓",
        actor="",
        severity="WARN",
        attributes={
            "odd": "NaN",
            "huge": "1180591620717411303424",
            "5": "a key that was a number",
            "papyra.fact.enc_error": ["odd", "huge", "5"],
        },
        writer="ffffffffffffffff",
        seq=1,
    ),
    Fact(
        kind=FactKind.EVENT,
        name="papyra.message.processed",
        time_unix_nano=1,
        system="orders",
        attributes={"long": "xxxxxxxx…(truncated)", "papyra.fact.truncated": ["long"]},
        writer="9f2c41d07be3a815",
        seq=2,
    ),
]


def test_golden_v1_facts_are_read_and_written_byte_for_byte() -> None:
    lines = (GOLDEN / "v1-facts.ndjson").read_bytes().splitlines(keepends=True)
    assert [decode(line[:-1]) for line in lines] == EXPECTED_V1
    assert [encode(fact) for fact in EXPECTED_V1] == lines
    for line in lines:
        checked_by_hand(line)


def test_a_golden_v1_segment_is_read_with_its_header_and_seal() -> None:
    lines = (GOLDEN / "v1-segment.ndjson").read_bytes().splitlines(keepends=True)
    header, *facts, seal = (parse(line[:-1]) for line in lines)
    assert (header.kind, seal.kind) == (SEGMENT_OPEN, SEGMENT_SEAL)
    assert header.attributes[semconv.SEGMENT_FORMAT] == 1
    assert seal.attributes[semconv.SEGMENT_RECORDS] == len(facts) == 3
    assert seal.attributes[semconv.SEGMENT_BYTES] == sum(map(len, lines[:-1]))
    assert [fact.seq for fact in facts] == [0, 1, 2]
    with pytest.raises(LineDamaged, match="not a kind of fact"):
        decode(lines[0][:-1])


# --- every value -----------------------------------------------------------------------------------


@given(plain_facts)
def test_a_plain_fact_comes_back_equal(fact: Fact) -> None:
    line = encode(fact)
    members = checked_by_hand(line)
    assert decode(line[:-1]) == fact
    assert isinstance(members["time"], str)
    assert {"actor", "trace_id", "span_id"} & set(members) == {
        name for name in ("actor", "trace_id", "span_id") if getattr(fact, name) is not None
    }
    assert members.get("attributes", {}) == fact.attributes


@given(st.dictionaries(ODD_NAMES, ODD_VALUES, max_size=5), ODD_TEXT, st.none() | ODD_TEXT)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_value_is_stored_or_said_to_be_replaced(
    attributes: dict[Any, Any], text: str, actor: str | None
) -> None:
    fact = stored(attributes=attributes, system=text, name=text, actor=actor)
    line = encode(fact)
    members = checked_by_hand(line)
    read = decode(line[:-1])
    assert encode(read) == line
    replaced = set(read.attributes.get(semconv.FACT_ENC_ERROR, ()))
    cut = set(read.attributes.get(semconv.FACT_TRUNCATED, ()))
    assert len(read.attributes) >= len(attributes)
    for name, value in read.attributes.items():
        if name[:4096] not in replaced | cut | {semconv.FACT_ENC_ERROR, semconv.FACT_TRUNCATED}:
            assert name in attributes
            given_value = attributes[name]
            assert value == (list(given_value) if type(given_value) is tuple else given_value)
    assert members["system"] == text.encode(errors="backslashreplace").decode()


SAME_STREAM = st.builds(
    Fact,
    kind=st.just(FactKind.EVENT),
    name=st.sampled_from(["papyra.a", "papyra.ü"]) | ODD_TEXT,
    time_unix_nano=st.sampled_from([0, 10**18, 10**18 + 1, 2 * 10**18]) | st.integers(-(10**19), 10**21),
    system=st.just("s"),
    actor=st.none() | TEXT | ODD_TEXT,
    severity=st.sampled_from(["INFO", "WARN"]) | TEXT,
    trace_id=st.none() | st.just("0af7651916cd43dd8448eb211c80319c"),
    attributes=st.dictionaries(TEXT, PLAIN_VALUES, max_size=3)
    | st.dictionaries(ODD_NAMES, ODD_VALUES, max_size=2),
)


USUAL = st.builds(
    Fact,
    kind=st.just(FactKind.EVENT),
    name=st.sampled_from(["papyra.a", "papyra.ü"]),
    time_unix_nano=st.integers(10**18, 10**18 + 999_999_999),
    system=st.just("s"),
    actor=TEXT,
    severity=st.sampled_from(["INFO", "WARN"]),
    trace_id=st.none() | st.just("0af7651916cd43dd8448eb211c80319c"),
    span_id=st.none() | st.just("b7ad6b7169203331"),
    attributes=st.dictionaries(TEXT, PLAIN_VALUES, min_size=1, max_size=3),
)


def one_by_one(facts: list[Fact], first_seq: int) -> bytes:
    return b"".join(encode(fact, WRITER, seq) for seq, fact in enumerate(facts, first_seq))


@given(
    st.lists(USUAL, max_size=24),
    st.lists(st.tuples(st.integers(0, 24), SAME_STREAM), max_size=3),
    st.sampled_from([0, 5, 2**40]),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_run_is_encoded_as_its_facts_are_one_by_one(
    facts: list[Fact], others: list[tuple[int, Fact]], first_seq: int
) -> None:
    for at, other in others:
        facts.insert(at, other)
    assert encode_run(facts, WRITER, first_seq) == one_by_one(facts, first_seq)


def usual(count: int, **members: Any) -> list[Fact]:
    fact = make_fact(1, attributes={"text": "x", "share": 0.5, "yes": True})
    return [msgspec.structs.replace(fact, **({"time_unix_nano": 10**18 + n} | members)) for n in range(count)]


def test_usual_facts_are_encoded_together_and_an_odd_one_between_them_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = msgspec.structs.replace(usual(1)[0], actor=None)
    later = [msgspec.structs.replace(fact, time_unix_nano=2 * 10**18) for fact in usual(10)]
    facts = [*usual(10), odd, *usual(10, trace_id="0" * 32), *later]
    wanted = one_by_one(facts, 3)
    alone: list[Fact] = []

    def noted(fact: Fact, writer: str | None = None, seq: int | None = None) -> bytes:
        alone.append(fact)
        return encode(fact, writer, seq)

    monkeypatch.setattr(codec, "encode", noted)
    assert encode_run(facts, WRITER, 3) == wanted
    assert alone == [odd]


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "members",
    [
        {"attributes": {"share": float("inf")}},
        {"attributes": {"share": float("nan"), "none": None}},
        {"attributes": {"many": 2**63}},
        {"attributes": {"many": 2**64}},
        {"attributes": {1: "x"}},
        {"attributes": {Text("x"): "x"}},
        {"attributes": {"x": Text("x")}},
        {"attributes": {"x": b"x"}},
        {"attributes": {"x": ["x", 1]}},
        {"attributes": {"x": {"y": 1}}},
        {"attributes": {"x": "\ud800"}},
        {"attributes": {}},
        {"attributes": MappingProxyType({"x": "x"})},
        {"actor": None},
        {"actor": "\ud800"},
        {"name": Text("papyra.a")},
        {"time_unix_nano": -1},
        {"time_unix_nano": 5},
        {"time_unix_nano": 999_999_999},
        {"time_unix_nano": 10**18 + 10**9},
        {"time_unix_nano": 10**21},
        {"time_unix_nano": 1e18},
        {"trace_id": "0af7651916cd43dd8448eb211c80319c"},
        {"span_id": "b7ad6b7169203331"},
        {"span_id": ""},
    ],
    ids=repr,
)
def test_whatever_is_odd_about_one_fact_changes_no_byte_of_a_run(members: dict[str, Any]) -> None:
    for at in (0, 5, 9):
        facts = usual(10)
        facts[at] = msgspec.structs.replace(facts[at], **members)
        assert encode_run(facts, WRITER, 7) == one_by_one(facts, 7)
    all_of_them = usual(10, **members)
    assert encode_run(all_of_them, WRITER, 7) == one_by_one(all_of_them, 7)


def test_a_long_fact_within_a_run_is_cut_and_its_neighbours_are_not() -> None:
    facts = usual(10)
    empty = len(encode(usual(1, attributes={"long": ""})[0], WRITER, 12))
    for size in (1 << 20, LINE_BYTES_MAX - empty, LINE_BYTES_MAX - empty + 1):
        facts[5] = usual(1, attributes={"long": "x" * size})[0]
        assert encode_run(facts, WRITER, 7) == one_by_one(facts, 7)


@given(st.dictionaries(TEXT, PLAIN_VALUES, max_size=4), ODD_VALUES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_one_odd_value_changes_none_of_its_neighbours(plain: dict[str, Any], odd: Any) -> None:
    plain = {name: value for name, value in plain.items() if name not in {"odd", "long"}}
    read = decode(encode(with_attributes(plain | {"odd": odd, "long": "x" * 300_000}))[:-1])
    assert {name: read.attributes[name] for name in plain} == plain
    assert read.attributes["long"] == "x" * 300_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (2**63, "9223372036854775808"),
        (2**5000, "<int of 5001 bits>"),
        (b"\xff", "b'\\xff'"),
        ("\ud800", "\\ud800"),
        (["ok", "\udfff"], ["ok", "\\udfff"]),
        ([1, [math.inf]], [1, ["Infinity"]]),
        (FactKind.EVENT, "event"),
    ],
    ids=repr,
)
def test_what_json_cannot_hold_is_replaced_and_listed(value: object, shown: object) -> None:
    read = decode(encode(with_attributes({"a": 1, "odd": value}))[:-1])
    assert read.attributes == {"a": 1, "odd": shown, semconv.FACT_ENC_ERROR: ["odd"]}


@pytest.mark.parametrize(
    "value", [(), ("a", "b"), [1, 2.5, None], {"a": {"b": [True]}}, [[]], -(2**63), -0.0, "\0"]
)
def test_what_json_holds_is_not_listed(value: object) -> None:
    read = decode(encode(with_attributes({"value": value}))[:-1])
    assert read.attributes == {"value": list(value) if isinstance(value, tuple) else value}


def test_names_that_become_equal_are_all_kept() -> None:
    read = decode(encode(with_attributes({1: "int", "1": "str", None: 0, "\ud800": 1, "\\ud800": 2}))[:-1])
    assert read.attributes["1"] == "str"
    assert read.attributes["\\ud800"] == 2
    assert sorted(map(str, read.attributes.values()))[:5] == sorted(
        map(str, [0, 1, 2, "int", read.attributes[semconv.FACT_ENC_ERROR]])
    )
    assert len(read.attributes[semconv.FACT_ENC_ERROR]) == 3


class BadMapping(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


def test_attributes_may_be_any_mapping() -> None:
    assert decode(encode(with_attributes(MappingProxyType({"a": 1})))[:-1]).attributes == {"a": 1}
    read = decode(encode(with_attributes(BadMapping()))[:-1])
    assert read.attributes == {semconv.FACT_ENC_ERROR: ["all attributes"]}


def test_keys_with_a_mind_of_their_own_do_no_harm() -> None:
    class Key(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        def __hash__(self) -> int:
            return hash("key")

    checked_by_hand(encode(with_attributes({"odd": {Key("key"): 1}, "h": {"x": Hostile()}})))


def test_what_was_encoded_last_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, odd = {"share": 0.5, "text": "漢"}, {"share": math.inf, "text": "x"}
    looked_at: list[object] = []
    is_plain = codec.plain

    def noted(attributes: Mapping[str, Any]) -> bool:
        looked_at.append(attributes)
        return is_plain(attributes)

    monkeypatch.setattr(codec, "plain", noted)
    encode(with_attributes(plain))
    assert faithful(plain) == plain
    assert faithful(plain) is not plain
    assert len(looked_at) == 1
    assert faithful(dict(plain)) == plain  # equal, but not the same
    assert len(looked_at) == 2
    encode(with_attributes(odd))
    assert faithful(odd)["share"] != math.inf
    surrogate = {"text": "\ud800"}
    encode(with_attributes(surrogate))
    assert faithful(surrogate)["text"] != "\ud800"


def test_faithful_gives_what_encode_would_write() -> None:
    given_attributes = {"a": "\ud800", "b": [1, 2], "c": ("x",), "d": "plain"}
    assert faithful(given_attributes) == decode(encode(with_attributes(given_attributes))[:-1]).attributes
    plain = {"a": "b"}
    assert faithful(plain) == plain
    assert faithful(plain) is not plain


# --- length ----------------------------------------------------------------------------------------


def test_a_line_of_exactly_the_limit_is_left_alone() -> None:
    room = LINE_BYTES_MAX - len(encode(with_attributes({"text": ""})))
    whole = with_attributes({"text": "x" * room})
    assert len(encode(whole)) == LINE_BYTES_MAX
    assert decode(encode(whole)[:-1]) == whole
    cut = decode(encode(with_attributes({"text": "x" * (room + 1)}))[:-1])
    assert cut.attributes == {"text": "x" * 4096 + "…(truncated)", semconv.FACT_TRUNCATED: ["text"]}


def test_the_largest_attributes_are_cut_first_and_listed() -> None:
    attributes = {"small": "s", "big": "b" * 700_000, "bigger": "c" * 800_000, "list": ["x"] * 10}
    read = decode(encode(with_attributes(attributes))[:-1])
    assert read.attributes[semconv.FACT_TRUNCATED] == ["bigger"]
    assert {**read.attributes, "bigger": ""} == {
        **attributes,
        "bigger": "",
        semconv.FACT_TRUNCATED: ["bigger"],
    }


@pytest.mark.parametrize(
    "attributes",
    [
        {f"name-{n}": "\x01" * 5000 for n in range(512)},
        {f"{n}" * 3000: "é" * 9000 for n in range(100, 700)},
        {str(n): n for n in range(200_000)},
        {"\x01" * 2_000_000: 1},
        {"list": ["\x01" * 100] * 20_000},
        {f"{n}": ["a" * 3000] for n in range(2000)},
    ],
    ids=["many long", "long names", "very many", "one huge name", "one huge list", "many lists"],
)
def test_any_amount_is_cut_to_size(attributes: dict[str, Any]) -> None:
    line = encode(with_attributes(attributes))
    checked_by_hand(line)
    read = decode(line[:-1])
    assert len(read.attributes) == min(len(attributes), 512) + 1
    assert read.attributes[semconv.FACT_TRUNCATED]


@pytest.mark.parametrize("member", ["name", "severity", "system", "actor", "trace_id", "span_id"])
def test_a_member_that_makes_the_line_too_long_is_cut_and_listed(member: str) -> None:
    line = encode(stored(**{member: "x" * 2_000_000}))
    checked_by_hand(line)
    assert getattr(decode(line[:-1]), member) == "x" * 4096 + "…"
    assert decode(line[:-1]).attributes[semconv.FACT_TRUNCATED] == [member]


# --- damage ----------------------------------------------------------------------------------------

SAMPLE = encode(
    stored(
        7,
        kind=FactKind.EVENT,
        attributes={"a": "b", "n": [1, 2]},
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
)[:-1]


def refused(data: bytes) -> None:
    with pytest.raises((LineDamaged, LogTooNew)):
        decode(data)


def test_every_flipped_bit_is_noticed_and_none_looks_like_a_newer_version() -> None:
    for at in range(len(SAMPLE)):
        for bit in range(8):
            damaged = bytearray(SAMPLE)
            damaged[at] ^= 1 << bit
            with pytest.raises(LineDamaged):
                decode(bytes(damaged))


def test_every_changed_byte_is_noticed() -> None:
    places = [*range(30), *range(30, len(SAMPLE) - 20, 9), *range(len(SAMPLE) - 20, len(SAMPLE))]
    for at in places:
        for value in range(256):
            if value != SAMPLE[at]:
                refused(SAMPLE[:at] + bytes([value]) + SAMPLE[at + 1 :])


def test_a_line_cut_anywhere_is_noticed() -> None:
    for length in range(len(SAMPLE)):
        with pytest.raises(LineDamaged):
            decode(SAMPLE[:length])
        with pytest.raises(LineDamaged):
            decode(SAMPLE[length + 1 :])


@given(st.binary(max_size=200) | st.just(b"[" * 100_000) | st.just(b'{"a":' * 100_000))
def test_garbage_is_damage(data: bytes) -> None:
    with pytest.raises(LineDamaged) as caught:
        decode(data)
    assert caught.value.anomaly in {"corrupt_line", "foreign_json", "crc_mismatch", "schema_invalid"}


MEMBERS = json.loads(SAMPLE)
del MEMBERS["crc"]


def test_a_line_signed_by_another_program_is_read() -> None:
    assert decode(signed_by_hand(MEMBERS)) == decode(SAMPLE)
    assert decode(signed_by_hand(MEMBERS | {"added": {"later": 1}})) == decode(SAMPLE)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 0},
        {"v": "1"},
        {"writer": "9F2C41D07BE3A815"},
        {"writer": ""},
        {"seq": -1},
        {"seq": "0"},
        {"seq": 1.5},
        {"time": 1795377765123456789},
        {"time": "2026-11-22T20:02:45Z"},
        {"time": "2026-13-22T20:02:45.000000000Z"},
        {"kind": "events"},
        {"kind": "segment.open"},
        {"name": None},
        {"attributes": []},
    ],
    ids=repr,
)
def test_a_signed_line_that_is_no_fact_is_schema_invalid(change: dict[str, Any]) -> None:
    with pytest.raises(LineDamaged) as caught:
        to_fact(parse(signed_by_hand(MEMBERS | change)))
    assert caught.value.anomaly == "schema_invalid"


@pytest.mark.parametrize("version", [2, 10, 999_999_999])
def test_a_newer_version_is_told_from_damage(version: int) -> None:
    newer = signed_by_hand({**MEMBERS, "v": version})
    for line in (newer, signed_by_hand({"v": version, "writer": "anything", "sequence": 1})):
        with pytest.raises(LogTooNew) as caught:
            decode(line)
        assert caught.value.version == version
    for damaged in (newer[:-30] + b"}", newer.replace(b'"seq":', b'"sequence":')):
        with pytest.raises(LineDamaged):  # else two flipped bits in one line could stop every reader
            decode(damaged)


@pytest.mark.parametrize("line", [b"{}", b'{"v":2}', b"[1]", b'"text"', b"null", b'{"crc":"00000000"}'])
def test_json_that_is_not_ours_is_foreign(line: bytes) -> None:
    with pytest.raises(LineDamaged) as caught:
        decode(line)
    assert caught.value.anomaly in {"foreign_json", "crc_mismatch"}


def test_a_checksum_in_upper_case_is_not_ours() -> None:
    lines = [encode(stored(n))[:-1] for n in range(20)]
    with_letters = [line for line in lines if line[-10:-2].upper() != line[-10:-2]]
    assert with_letters
    for line in with_letters:
        refused(line[:-10] + line[-10:-2].upper() + line[-2:])
