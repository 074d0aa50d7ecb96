"""Recovery: attacks on small logs, exhaustively; no good record lost, no bad one believed, every byte kept."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import count, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from log.examples import plain_facts
from log.segments import (
    NOW,
    SMALL,
    WRITER,
    BytesFs,
    Sample,
    UnsyncedFs,
    attacked,
    attacks_on_bytes,
    attacks_on_lines,
    flipped,
    good_facts,
    sample,
    several_bits,
    small_log,
    tree,
    write_files,
)
from papyra_otel import semconv
from papyra_otel.errors import ConfigError, LogBusy, LogUnavailable
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log import mending
from papyra_otel.log.codec import encode, encode_line, outline, parse, sign
from papyra_otel.log.file import FileLog
from papyra_otel.log.file.examine import HEADER, SEAL, Digests, examine
from papyra_otel.log.file.folder import LogFolder
from papyra_otel.log.file.fs import OS, FileSystem
from papyra_otel.log.file.layout import SegmentName
from papyra_otel.log.file.marks import Header, Seal
from papyra_otel.log.file.plan import Plan, plan_segment
from papyra_otel.log.file.quarantine import KeptSegment, edited, quarantine_lines, undo
from papyra_otel.log.file.recover import recover_log
from papyra_otel.log.file.survey import Site, TooNew
from papyra_otel.log.mending import UNSEALED_LINE_BYTES_MAX, corrected
from papyra_otel.reports import Progress, RecoveryReport
from papyra_otel.testing import make_fact

NAME = SegmentName.new(NOW, WRITER, 1)
SEALED = sample(FactKind.EVENT, SMALL, sealed=True)
UNSEALED = sample(FactKind.DEAD_LETTER, SMALL, sealed=False, first_seq=40)
SAMPLES = [pytest.param(SEALED, id="sealed"), pytest.param(UNSEALED, id="unsealed")]
MODES = ["quarantine", "repair"]


# --- one segment, in memory ----------------------------------------------------------------------------


def planned(data: bytes, made: Sample, mode: str, *, lost: bool = True, **changes: Any) -> Plan:
    """Plan for *data*, what became of *made*; with *lost*, what is missing from it is nowhere else."""
    here = {parse(line[:-1]).seq for line in good_facts(data)}
    missing: list[tuple[int, int]] = []
    for seq in sorted(set(range(made.first_seq, made.last_seq + 1)) - here):
        if missing and missing[-1][1] == seq - 1:
            missing[-1] = missing[-1][0], seq
        else:
            missing.append((seq, seq))
    site: dict[str, Any] = {
        "name": NAME,
        "kind": made.kind,
        "system": "shop",
        "system_folder": "shop",
        "before": made.first_seq - 1,
        "until": None,
        "witnessed": None,
        "missing": lambda digest, reach: missing if lost else [],
    }
    return plan_segment(BytesFs(data), 0, Site(**site | changes), mode)


def recovered(data: bytes, plan: Plan, mode: str) -> bytes:
    """Return the new segment, after making sure that the old one can be had back."""
    read = BytesFs(data).read
    new = b"".join(edited(read, plan.size_bytes, plan.edits))
    kept = KeptSegment(v=1, segment="x", size_bytes=plan.size_bytes, digest=plan.digest, mode=mode)
    quarantine = b"".join(quarantine_lines(kept, plan.edits, read))
    assert b"".join(undo(BytesFs(quarantine), BytesFs(new).read, "0")) == data
    return new


def after_recovery(data: bytes, made: Sample, mode: str) -> bytes:
    """Recover *data*, what became of *made*; return the new segment after checking all that must always hold."""
    new = recovered(data, planned(data, made, mode), mode)
    digests = Digests()
    spans = list(examine(BytesFs(new), 0, len(new), alive=False, digests=digests))
    assert all(span.anomaly is None for span in spans)
    assert [spans[0].what, spans[-1].what] == [HEADER, SEAL]
    assert spans[-1].outline is not None
    assert Seal.of(spans[-1].outline).digest == digests.before_seal
    facts = good_facts(new)
    assert facts == [line for line in made.facts if line in facts]  # no other, in order, none twice
    assert set(good_facts(data)) <= set(facts)
    assert planned(new, made, mode, lost=False).edits == ()
    return new


def unharmed(made: Sample) -> bytes:
    """Return what *made* begins with when nothing of it is lost."""
    return b"".join([made.lines[0], *made.facts])


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("made", SAMPLES)
def test_after_any_flipped_bit_the_segment_is_whole_and_the_byte_is_kept(made: Sample) -> None:
    for bit in range(8 * len(made.data)):
        after_recovery(flipped(made.data, bit), made, "quarantine")


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("made", SAMPLES)
def test_repair_restores_every_flipped_bit_exactly(made: Sample) -> None:
    for bit in range(8 * len(made.data)):
        new = after_recovery(flipped(made.data, bit), made, "repair")
        assert new == made.data if made.sealed else new.startswith(made.data)


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("made", SAMPLES)
def test_after_deleted_zeroed_inserted_and_cut_bytes_the_segment_is_whole(made: Sample) -> None:
    for number, data in enumerate(attacks_on_bytes(made.data)):
        after_recovery(data, made, MODES[number % 2])


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("made", SAMPLES)
def test_after_lost_torn_swapped_and_repeated_lines_the_segment_is_whole(made: Sample, mode: str) -> None:
    for data in attacks_on_lines(made.lines):
        after_recovery(data, made, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("made", SAMPLES)
def test_lines_in_any_order_go_back_to_their_place(made: Sample, mode: str) -> None:
    for lines in permutations(made.lines):
        new = after_recovery(b"".join(lines), made, mode)
        assert new == made.data if made.sealed else new.startswith(made.data)


def test_whatever_repeats_lines_and_glues_them_a_sealed_segment_comes_back_exactly() -> None:
    for at, line in enumerate(SEALED.lines):
        for other in range(len(SEALED.lines) + 1):
            data = b"".join([*SEALED.lines[:other], line, *SEALED.lines[other:]])
            assert after_recovery(data, SEALED, "quarantine") == SEALED.data
        glued = b"".join([*SEALED.lines[:at], line[:-1], *SEALED.lines[at + 1 :]])
        assert after_recovery(glued, SEALED, "quarantine") == SEALED.data
        assert after_recovery(data[:-1], SEALED, "quarantine") == SEALED.data


def test_several_flipped_bits_in_several_lines_are_all_corrected() -> None:
    made = sample(FactKind.AUDIT, SMALL * 3, sealed=True)
    rng = random.Random(3)
    for _ in range(100):
        lines = [flipped(line[:-1], rng.randrange(8 * len(line) - 8)) + b"\n" for line in made.lines]
        assert after_recovery(b"".join(lines), made, "repair") == made.data


@pytest.mark.parametrize("chars", [3000, 60_000])
def test_flipped_bits_in_long_lines_of_a_sealed_segment_are_corrected(chars: int) -> None:
    made = sample(FactKind.EVENT, [{"t": "long " * (chars // 5)}, {}], sealed=True)
    rng = random.Random(chars)
    for _ in range(40):
        assert (
            after_recovery(flipped(made.data, rng.randrange(8 * len(made.data))), made, "repair") == made.data
        )


def test_without_a_seal_only_short_lines_are_corrected() -> None:
    for chars, exactly in ((UNSEALED_LINE_BYTES_MAX - 400, True), (UNSEALED_LINE_BYTES_MAX, False)):
        made = sample(FactKind.EVENT, [{}, {"t": "x" * chars}, {}], sealed=False)
        at = made.data.index(b"xxxx") + 9
        new = after_recovery(flipped(made.data, 8 * at), made, "repair")
        assert new.startswith(made.data) is exactly


def test_a_correction_that_the_seal_does_not_confirm_is_not_believed() -> None:
    lines = list(SEALED.lines)
    del lines[2]  # lost as a whole: what is left can never have the sealed digest
    lines[1] = flipped(lines[1], 300)
    plan = planned(b"".join(lines), SEALED, "repair")
    assert plan.repaired_lines == 0
    new = after_recovery(b"".join(lines), SEALED, "repair")
    assert good_facts(new) == []


def test_a_correction_must_be_the_missing_fact() -> None:
    lines = list(UNSEALED.lines)
    wrong_seq = encode(make_fact(1, kind=FactKind.DEAD_LETTER).identified(WRITER, 77))
    wrong_writer = encode(make_fact(1, kind=FactKind.DEAD_LETTER).identified("0" * 16, 41))
    wrong_kind = encode(make_fact(1, kind=FactKind.AUDIT).identified(WRITER, 41))
    again = lines[1]
    for wrong in (wrong_seq, wrong_writer, wrong_kind, again):
        data = b"".join([*lines[:2], flipped(wrong, 900)])
        assert planned(data, UNSEALED, "repair").repaired_lines == 0
    assert planned(b"".join([*lines[:2], flipped(lines[2], 900)]), UNSEALED, "repair").repaired_lines == 1


def test_of_two_possible_corrections_none_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = UNSEALED.facts[0][:-1]
    said = outline(line)
    monkeypatch.setattr(mending, "_suspects", lambda line: [(3, 1), (5, 2)])
    monkeypatch.setattr(mending, "_canonical", lambda line: said)
    assert corrected(line, lambda said: True) is None


def test_a_line_that_we_would_have_written_otherwise_is_not_corrected() -> None:
    members = json.loads(UNSEALED.facts[0])
    del members["crc"]
    spaced = sign(json.dumps(members).encode())
    data = b"".join(
        [UNSEALED.lines[0], flipped(spaced, 8 * (spaced.index(b"worker") + 2)), UNSEALED.facts[1]]
    )
    assert planned(data, UNSEALED, "repair").repaired_lines == 0


@given(plain_facts)
def test_what_the_codec_writes_is_canonical(fact: Fact) -> None:
    line = encode(fact)
    assert encode_line(parse(line[:-1])) == line


def miscorrections(cases: int, seed: int) -> int:
    """Count how many of so many lines with several wrong bits are changed into something that never was."""
    rng = random.Random(seed)
    texts = ["".join(rng.choices("abcdefghij klmnop äö漢", k=k)) for k in (1, 60, 300, 3000)]
    lines = [
        encode(make_fact(n, attributes={"n": n, "t": text}).identified(WRITER, n))[:-1]
        for n, text in enumerate(texts * 2)
    ]
    lines = [
        line for line in lines if len(line) <= mending.UNSEALED_LINE_BYTES_MAX
    ]  # longer ones need a seal
    assert max(map(len, lines)) > 500
    wrong = 0
    for number in range(cases):
        line = lines[number % len(lines)]
        bad = several_bits(line, rng)
        change = corrected(bad, lambda said: True)
        if change is not None:
            offset, right, _ = change
            wrong += bad[:offset] + bytes([right]) + bad[offset + 1 :] != line
    return wrong


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_several_wrong_bits_in_a_line_are_never_miscorrected() -> None:
    assert miscorrections(200_000, seed=1) == 0


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_several_wrong_bits_in_a_line_are_never_miscorrected_at_length(seed: int) -> None:
    assert miscorrections(200_000, seed) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("made", SAMPLES)
@pytest.mark.parametrize("behind", [bytes(100), b"?" * 30 + b"\n"], ids=["nuls", "text"])
def test_a_line_that_goes_takes_its_lost_line_end_along(made: Sample, mode: str, behind: bytes) -> None:
    header, first, second = made.lines[:3]
    for lines in (
        [header, first, second, first[:-1], behind],  # once more
        [header, first, second, header[:-1], behind],
        [header, second, first[:-1], behind],  # in the wrong place
        [first, second, header[:-1], behind],
    ):
        new = after_recovery(b"".join(lines), made, mode)
        assert good_facts(new) == [first, second]


def test_two_damaged_lines_that_become_the_same_fact_are_one() -> None:
    made = sample(FactKind.DEAD_LETTER, [*SMALL, {}], sealed=False, first_seq=40)
    header, first, second, third = made.lines
    data = b"".join([header, first, flipped(second, 300), flipped(second, 700), third])
    assert after_recovery(data, made, "repair").startswith(made.data)
    other = encode(make_fact(7, kind=FactKind.DEAD_LETTER).identified(WRITER, 41))
    for lines in ([second, other], [other, second]):
        data = b"".join([header, first, *(flipped(line, 300) for line in lines), third])
        new = after_recovery(data, made, "repair")
        assert good_facts(new) == [first, third]  # which of the two it was nobody can know


def test_a_header_and_the_fact_it_begins_with_are_corrected_together() -> None:
    header, first, second = UNSEALED.lines
    data = b"".join([flipped(header, 300), flipped(first, 300), second])
    assert after_recovery(data, UNSEALED, "repair").startswith(UNSEALED.data)


# --- headers and seals that recovery makes -------------------------------------------------------------


def marks(data: bytes) -> tuple[Header, Seal]:
    spans = list(examine(BytesFs(data), 0, len(data), alive=False))
    first, last = spans[0].outline, spans[-1].outline
    assert first is not None
    assert last is not None
    return Header.of(first), Seal.of(last)


def test_a_new_seal_names_those_it_replaces() -> None:
    once = after_recovery(flipped(SEALED.data, 8 * 500), SEALED, "quarantine")
    _, seal = marks(once)
    assert (seal.rewritten, seal.replaces, seal.records) == ("quarantine", (SEALED.digest,), 1)
    at = once.index(SEALED.facts[-1] if SEALED.facts[-1] in once else SEALED.facts[0]) + 60
    twice = recovered(
        flipped(once, 8 * at), planned(flipped(once, 8 * at), SEALED, "quarantine"), "quarantine"
    )
    assert marks(twice)[1].replaces == (seal.digest, SEALED.digest)


def test_a_seal_whose_predecessor_is_unknown_names_what_the_next_segment_witnessed() -> None:
    data = b"".join(SEALED.lines[:2])
    new = recovered(data, planned(data, SEALED, "quarantine", witnessed="ab" * 32), "quarantine")
    assert marks(new)[1].replaces == ("ab" * 32,)
    whole = unharmed(SEALED)
    new = recovered(whole, planned(whole, SEALED, "repair", witnessed=SEALED.digest), "repair")
    _, seal = marks(new)
    assert (seal.digest, seal.replaces, seal.last_seq) == (SEALED.digest, (), 1)


def test_a_made_header_says_what_is_known() -> None:
    data = b"".join(UNSEALED.lines[2:])
    new = recovered(data, planned(data, UNSEALED, "quarantine"), "quarantine")
    header, seal = marks(new)
    assert header == Header(
        writer=WRITER,
        system="shop",
        kind="dead_letter",
        first_seq=41,
        number=1,
        previous=None,
        predecessor=None,
        rewritten="quarantine",
    )
    assert (seal.last_seq, seal.records) == (41, 1)
    first = json.loads(new.splitlines()[0])
    assert first["time"] == json.loads(UNSEALED.lines[2])["time"]


def test_an_empty_file_becomes_a_segment_without_facts() -> None:
    new = recovered(b"", planned(b"", UNSEALED, "quarantine", until=40), "quarantine")
    header, seal = marks(new)
    assert (header.first_seq, seal.last_seq, seal.records) == (40, 39, 0)
    assert json.loads(new.splitlines()[0])["time"] == "2026-11-22T20:02:45.000000000Z"


def newer(text: str = "") -> bytes:
    return sign(b'{"v":2,"writer":"%b","seq":1,"news":"%b"}' % (WRITER.encode(), text.encode()))


def test_lines_of_a_newer_version_stay_word_for_word() -> None:
    lines = [SEALED.lines[0], newer("é"), flipped(SEALED.lines[1], 700), newer(), SEALED.lines[2]]
    data = b"".join(lines)
    new = recovered(data, planned(data, SEALED, "quarantine"), "quarantine")
    assert new == b"".join(
        [lines[0], lines[1], lines[3], lines[4]]
    )  # and no seal: the newer one knows how it ends


def test_a_newer_versions_segment_is_not_touched() -> None:
    with pytest.raises(TooNew):
        planned(newer() + SEALED.data, SEALED, "quarantine")


# --- what is lost, and where ---------------------------------------------------------------------------


def lost_in(plan: Plan) -> list[tuple[int, str]]:
    return [(edit.offset, text.partition("-event-")[2]) for edit in plan.edits for text in edit.seqs]


def test_lost_facts_are_named_where_they_stood() -> None:
    made = sample(FactKind.EVENT, [{}] * 6, sealed=True)
    lines = made.lines
    for data, expected in (
        (b"".join(lines[:2] + lines[4:]), [(len(lines[0] + lines[1]), "1..2")]),
        (b"".join([*lines[:2], b"?" * 90, b"\n", *lines[3:]]), [(len(lines[0] + lines[1]), "1..1")]),
        (b"".join(lines[:5] + lines[7:]), [(len(b"".join(lines[:5])), "4..5")]),
        (b"".join(lines[:1] + lines[3:]), [(len(lines[0]), "0..1")]),
        (b"".join(lines[3:]), [(0, "0..1")]),
    ):
        assert lost_in(planned(data, made, "quarantine")) == expected


def test_what_the_next_segment_expected_tells_how_much_of_the_end_is_lost() -> None:
    made = sample(FactKind.EVENT, [{}] * 6, sealed=False)
    data = b"".join(made.lines[:5]) + made.lines[5][:40]
    assert lost_in(planned(data, made, "quarantine", until=6)) == [(len(b"".join(made.lines[:5])), "4..5")]


def test_the_last_segment_tells_lost_whatever_else_is_missing() -> None:
    made = sample(FactKind.EVENT, [{}] * 6, sealed=True)
    lines = made.lines
    data = b"".join(lines[:2] + lines[3:])
    reached: list[int] = []

    def missing(digest: str, reach: int) -> list[tuple[int, int]]:
        reached.append(reach)
        return [(1, 1), (8, 9)]

    plan = planned(data, made, "quarantine", missing=missing, rest=True)
    seal_at = len(data) - len(lines[-1])
    assert lost_in(plan) == [(len(lines[0] + lines[1]), "1..1"), (seal_at, "8..9")]
    assert (plan.lost, plan.reach, reached) == (((1, 1), (8, 9)), 5, [5])
    plan = planned(data, made, "quarantine", missing=missing, until=20)
    assert (lost_in(plan)[1:], plan.reach) == ([(seal_at, "8..9")], 19)


# --- a log on the disk ---------------------------------------------------------------------------------


class Log:
    """A log in a folder, and what recovering it recorded."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.facts: list[Fact] = []
        self.clock: Callable[[], int] = count(NOW + 10_000_000_000).__next__

    def recover(
        self, mode: str = "quarantine", *, fs: FileSystem | None = None, dry_run: bool = False, **changes: Any
    ) -> RecoveryReport:
        options: dict[str, Any] = {"progress": None, "record": self.record, "dry_run": dry_run} | changes
        folder = LogFolder(fs=fs or UnsyncedFs(), root=str(self.root))
        return recover_log(folder, self.clock, mode, **options)

    def record(self, facts: Sequence[Fact]) -> tuple[Fact, ...]:
        self.facts.extend(facts)
        return tuple(facts)

    def segments(self) -> list[Path]:
        found = [path for path in self.root.rglob("*.ndjson") if path.parent.name != "quarantine"]
        return sorted(found, key=lambda path: (path.parent, path.name[17:]))  # each writer's in order

    def damage(self, at: int, how: Callable[[bytes], bytes] = lambda data: flipped(data, 8 * 700)) -> Path:
        path = self.segments()[at]
        path.write_bytes(how(path.read_bytes()))
        return path


@pytest.fixture
def log(tmp_path: Path) -> Log:
    root = tmp_path / "facts"
    write_files(small_log(root))
    return Log(root)


def facts_in(root: Path) -> set[bytes]:
    return {line for path in Log(root).segments() for line in good_facts(path.read_bytes())}


def check_recovery(root: Path, files: dict[Path, bytes], mode: str) -> None:
    """Write *files*, recover twice, and check all that must hold of a log."""
    shutil.rmtree(root, ignore_errors=True)
    write_files(files)
    log = Log(root)
    before, facts = tree(root), facts_in(root)
    would = log.recover(mode, dry_run=True)
    assert tree(root) == before
    did = log.recover(mode)
    assert (would.rewritten, would.kept_in, would.repaired_lines, would.quarantined_bytes) == (
        did.rewritten,
        did.kept_in,
        did.repaired_lines,
        did.quarantined_bytes,
    )
    assert did.remaining.unresolved == 0
    assert facts <= facts_in(root)
    assert len(log.facts) == (1 if did.changed else 0)
    after = tree(root)
    for place in did.kept_in:
        segment = place.partition("/")[0] + "/" + json.loads(after[place].splitlines()[0])["segment"]
        back = undo(BytesFs(after[place]), BytesFs(after[segment]).read, "0")
        assert b"".join(back) == before[segment]
    again = log.recover(mode)
    assert not again.changed
    assert tree(root) == after
    assert len(log.facts) <= 1


def random_recoveries(root: Path, cases: int, seed: int) -> None:
    rng = random.Random(seed)
    files = small_log(root)
    facts = {line for data in files.values() for line in good_facts(data)}
    for number in range(cases):
        check_recovery(root, attacked(files, rng, rng.choice((1, 2, 5, 5))), MODES[number % 2])
        assert facts_in(root) <= facts


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_whatever_happens_to_a_log_a_recovery_leaves_nothing_unresolved(tmp_path: Path) -> None:
    random_recoveries(tmp_path / "facts", 60, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 6))
def test_whatever_happens_to_a_log_a_recovery_leaves_nothing_unresolved_at_length(
    tmp_path: Path, seed: int
) -> None:
    random_recoveries(tmp_path / "facts", 1000, seed)


def test_a_healthy_log_is_only_sealed_where_it_was_left_open(log: Log) -> None:
    before = tree(log.root)
    report = log.recover()
    assert [place[-11:-7] for place in report.rewritten] == ["0004"] * 3
    assert report.found.counts == {"unclean_shutdown": 3}
    assert report.remaining.counts == {}
    assert (report.quarantined_spans, report.quarantined_bytes, report.repaired_lines) == (0, 0, 0)
    after = tree(log.root)
    assert all(after[place].startswith(before[place]) for place in before)


def test_each_changed_system_is_recorded_once(log: Log) -> None:
    log.damage(0)
    shutil.copytree(log.root / "shop", log.root / "other")  # of system shop, in the wrong folder
    log.recover()
    by_system = {fact.system: fact for fact in log.facts}
    assert len(log.facts) == len(by_system) == 1 or set(by_system) == {"shop", "other"}
    fact = by_system["shop"]
    assert (fact.name, fact.severity, fact.kind) == (semconv.LOG_RECOVERED, "WARN", FactKind.EVENT)
    assert fact.attributes[semconv.RECOVERY_MODE] == "quarantine"
    assert fact.attributes[semconv.RECOVERY_SEGMENTS] == 4
    assert fact.attributes[semconv.RECOVERY_QUARANTINED_SPANS] >= 1
    assert fact.attributes[semconv.RECOVERY_QUARANTINED_BYTES] > 100
    assert fact.attributes[semconv.RECOVERY_REPAIRED_LINES] == 0
    assert all(name.startswith("shop/quarantine/") for name in fact.attributes[semconv.RECOVERY_FILES])


def test_a_lost_segment_is_evidence_and_its_follower_stays_as_it_is(log: Log) -> None:
    log.recover()
    lost, following = log.segments()[1:3]
    lost.unlink()
    before = following.read_bytes()
    report = log.recover()
    assert set(report.found.counts) == {"segment_missing"}
    assert report.remaining.counts == {}
    assert (report.rewritten, len(report.kept_in)) == ((), 1)
    assert following.read_bytes() == before
    (line,) = [text for text in (log.root / report.kept_in[0]).read_text().splitlines() if "seqs" in text]
    assert json.loads(line)["seqs"] == [f"{0xABC000:016x}-audit-4..7"]
    assert not log.recover("repair").changed


def told_lost(log: Log, report: RecoveryReport) -> list[str]:
    lines = [line for place in report.kept_in for line in (log.root / place).read_text().splitlines()]
    return [text.rpartition("-")[2] for line in lines for text in json.loads(line).get("seqs", [])]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("left", ["nothing", "its header", "a torn header"])
def test_what_only_a_header_in_the_wrong_place_shows_to_be_missing_is_told_in_the_same_run(
    log: Log, left: str, mode: str
) -> None:
    log.recover()
    path, following = log.segments()[1:3]
    header = path.read_bytes().splitlines(keepends=True)[0]
    lines = following.read_bytes().splitlines(keepends=True)
    if left == "nothing":
        path.unlink()
    else:
        path.write_bytes(header if left == "its header" else header[:90])
    following.write_bytes(lines[-1] + b"".join(lines[:-1]))
    before = tree(log.root)
    would = log.recover(mode, dry_run=True)
    report = log.recover(mode)
    assert report.remaining.unresolved == 0
    assert told_lost(log, report) == ["4..7"]
    assert following.read_bytes() == b"".join(lines)
    assert would.kept_in == report.kept_in
    assert before.keys() <= tree(log.root).keys()
    assert not log.recover(mode).changed


def test_a_header_without_facts_shows_what_is_missing_before_it(log: Log) -> None:
    log.recover()
    _, _, lost, last = log.segments()[:4]
    digest = marks(lost.read_bytes())[1].digest
    writer = f"{0xABC000:016x}"
    empty = sample(FactKind.AUDIT, [], sealed=True, first_seq=12, writer=writer, number=4, predecessor=digest)
    last.write_bytes(empty.data)
    lost.unlink()
    report = log.recover()
    assert set(report.found.counts) == {"segment_missing"}
    assert report.remaining.counts == {}
    assert told_lost(log, report) == ["8..11"]


def test_what_is_missing_where_a_writer_still_writes_is_not_told_lost(log: Log) -> None:
    log.recover()
    log.damage(2)  # a fact of seqs 8 to 11
    living = log.segments()[3]
    lines = living.read_bytes().splitlines(keepends=True)
    living.write_bytes(b"".join([lines[0], *lines[2:4]]))  # 12 is not there: why, may be told yet; nor is 15
    fd = OS.open_read(str(living))
    try:
        assert OS.lock(fd)
        report = log.recover()
    finally:
        OS.close(fd)
    assert told_lost(log, report) == ["9..9"]
    assert told_lost(log, log.recover()) == ["12..12"]


def test_a_fact_is_told_lost_once_also_when_two_places_show_it(log: Log) -> None:
    log.recover()
    log.damage(1, lambda data: b"".join(data.splitlines(keepends=True)[:2]))
    log.damage(2)  # its header says that it begins with 8
    report = log.recover()
    assert told_lost(log, report) == ["5..7", "9..9"]


def test_swapped_segments_stay_swapped_and_reported(log: Log) -> None:
    log.recover()
    left, right = log.segments()[0:2]
    data = left.read_bytes(), right.read_bytes()
    left.write_bytes(data[1])
    right.write_bytes(data[0])
    report = log.recover("repair")
    assert not report.changed
    assert report.remaining.counts["head_missing"] == 2


def test_a_fact_that_was_corrected_is_not_told_to_be_lost(log: Log) -> None:
    log.recover()
    log.damage(0, lambda data: data.replace(b'"n":3', b'"n":2'))  # the last fact before the seal
    log.damage(1, lambda data: b"?" * 60 + data[60:])  # its header would have told where it begins
    report = log.recover("repair")
    assert report.repaired_lines == 1
    assert report.remaining.counts == {}
    assert not [place for place in report.kept_in if b"seqs" in (log.root / place).read_bytes()]


def test_the_same_damage_gives_the_same_bytes(log: Log, tmp_path: Path) -> None:
    for at in (0, 5, 9):
        log.damage(at)
    log.damage(3, lambda data: data[: len(data) // 2])
    shutil.copytree(log.root, tmp_path / "copy")
    log.recover("repair")
    Log(tmp_path / "copy").recover("repair")
    assert tree(log.root) == tree(tmp_path / "copy")


def test_ignore_only_looks(log: Log) -> None:
    log.damage(0)
    before = tree(log.root)
    report = log.recover("ignore")
    assert tree(log.root) == before
    assert report.found is report.remaining
    assert report.found.unresolved
    assert not report.changed


def test_an_unknown_mode_is_refused(log: Log) -> None:
    with pytest.raises(ConfigError, match="'fix' is not one of"):
        log.recover("fix")


def test_what_a_living_writer_holds_is_left_alone_and_named(log: Log) -> None:
    path = log.damage(0)
    before = path.read_bytes()
    fd = OS.open_read(str(path))
    try:
        assert OS.lock(fd)
        report = log.recover()
    finally:
        OS.close(fd)
    assert path.read_bytes() == before
    assert [skipped.place for skipped in report.skipped] == [str(path.relative_to(log.root))]
    assert "writer is running" in report.skipped[0].reason
    assert log.recover().rewritten == (str(path.relative_to(log.root)),)


def test_what_a_living_writer_sealed_and_lost_is_told_at_once(tmp_path: Path) -> None:
    with FileLog(tmp_path, segment_bytes_max=1500) as log:
        for n in range(3):
            log.append([make_fact(n, kind=FactKind.EVENT, attributes={"p": "x" * 300})])
        log.flush()  # what is sealed is let go when it is on the disk
        first = min(tmp_path.rglob("events/*.ndjson"))
        *lines, last, seal = first.read_bytes().splitlines(keepends=True)
        first.write_bytes(b"".join([*lines, flipped(last, 8 * 200), seal]))
        assert log.recover().changed
        log.seal()  # from now on nobody can explain the hole any more
        assert log.scan().healthy
        assert not log.recover().changed


def test_what_somebody_took_since_it_was_scanned_is_left_alone_and_named(log: Log) -> None:
    class Fs(UnsyncedFs):
        def locked(self, fd: int) -> bool:
            return False  # as it was a moment ago

    path = log.damage(0)
    before = path.read_bytes()
    fd = OS.open_read(str(path))
    try:
        assert OS.lock(fd)
        report = log.recover(fs=Fs())
    finally:
        OS.close(fd)
    assert path.read_bytes() == before
    assert [skipped.reason for skipped in report.skipped] == ["somebody holds it now"]


def test_evidence_is_written_once_also_where_something_else_stays_wrong(log: Log) -> None:
    stray = log.segments()[5].read_bytes().splitlines(keepends=True)[1]
    log.damage(1, lambda data: data.replace(b'{"v":1', stray + b'{"v":1', 2).replace(stray, b"", 1))
    assert log.recover().remaining.counts == {"fork_conflict": 1}
    log.segments()[0].unlink()
    assert len(log.recover().kept_in) == 1
    after = tree(log.root)
    again = log.recover()
    assert again.remaining.counts == {"fork_conflict": 1}
    assert not again.changed
    assert tree(log.root) == after


def test_only_one_process_at_a_time_looks_after_a_system(log: Log) -> None:
    log.damage(0)
    before = tree(log.root)
    lock = OS.lock_folder(str(log.root / "shop"))
    assert lock is not None
    try:
        with pytest.raises(LogBusy, match="'shop' is being recovered or compacted"):
            log.recover()
        assert log.recover(dry_run=True).changed
    finally:
        OS.close(lock)
    assert tree(log.root) == before
    assert log.recover().changed


def test_what_crashes_left_behind_is_removed_and_strangers_stay(log: Log) -> None:
    log.recover()
    stream = log.root / "shop" / "events"
    name = log.segments()[-1].name
    places = [
        stream / f"{name}.tmp",
        stream / f"{SegmentName.new(NOW, WRITER, 9)}.removing",
        log.root / "shop" / "quarantine" / "events-x.ndjson.tmp",
        log.root / "shop" / "verified.json.tmp",
        log.root / "reserve.tmp",
    ]
    for path in places:
        path.write_bytes(b"half")
    (stream / "notes.tmp").write_bytes(b"mine")
    would = log.recover(dry_run=True)
    assert all(path.exists() for path in places)
    held = OS.open_read(str(places[0]))
    assert OS.lock(held)
    report = log.recover()
    assert set(report.leftovers_removed) == {str(path.relative_to(log.root)) for path in places[1:]}
    OS.close(held)
    assert set(would.leftovers_removed) == {str(path.relative_to(log.root)) for path in places}
    assert log.recover().leftovers_removed == (str(places[0].relative_to(log.root)),)
    assert report.remaining.counts == {"unexpected_file": 1}
    assert (stream / "notes.tmp").exists()


def test_progress_is_told_of_what_is_looked_into(log: Log) -> None:
    told: list[Progress] = []
    log.recover(progress=told.append)
    assert told[-1].done_bytes == told[-1].total_bytes > 0


def test_a_recovery_that_cannot_be_recorded_says_so(log: Log) -> None:
    def refuse(facts: Sequence[Fact]) -> tuple[Fact, ...]:
        raise LogUnavailable("disk full")

    report = log.recover(record=refuse)
    assert report.remaining.counts == {}
    assert report.recorded == ()
    assert "disk full" in report.skipped[0].reason


def files_told(log: Log) -> set[str]:
    return {place for fact in log.facts for place in fact.attributes[semconv.RECOVERY_FILES]}


def cut_short(log: Log, mode: str = "quarantine") -> None:
    """Recover, and end before the fact about it is stored."""

    def end(facts: Sequence[Fact]) -> tuple[Fact, ...]:
        raise Crash

    with pytest.raises(Crash):
        log.recover(mode, record=end)


@pytest.mark.parametrize("mode", MODES)
def test_a_recovery_that_ended_before_it_was_recorded_is_recorded_by_the_next(
    log: Log, tmp_path: Path, mode: str
) -> None:
    log.damage(0)
    log.damage(9, lambda data: data[:800] + data[1100:])
    shutil.copytree(log.root, tmp_path / "copy")
    whole = Log(tmp_path / "copy")
    whole.recover(mode)
    cut_short(log, mode)
    assert [anomaly.detail for anomaly in log.recover("ignore").found.anomalies] == [
        "a recovery was cut short before it was recorded: recover again"
    ]
    before = tree(log.root)
    assert log.recover(dry_run=True).leftovers_removed == ("shop/recovering.json",)
    assert tree(log.root) == before
    report = log.recover("repair" if mode == "quarantine" else "quarantine")
    (fact,) = log.facts
    assert report.recorded == (fact,)
    assert fact.attributes == whole.facts[0].attributes
    assert (report.rewritten, report.kept_in) == ((), ())
    assert report.leftovers_removed == ("shop/recovering.json",)
    assert report.remaining.counts == {}
    assert tree(log.root) == tree(whole.root)
    assert not log.recover().changed
    assert len(log.facts) == 1


def test_what_a_later_recovery_does_is_told_together_with_what_an_earlier_one_could_not(log: Log) -> None:
    log.recover()
    log.facts.clear()

    def refuse(facts: Sequence[Fact]) -> tuple[Fact, ...]:
        raise LogUnavailable("disk full")

    log.damage(0)
    first = log.recover(record=refuse)
    assert first.leftovers_removed == ()
    log.damage(4)
    second = log.recover()
    (fact,) = log.facts
    assert set(fact.attributes[semconv.RECOVERY_FILES]) == {*first.kept_in, *second.kept_in}
    assert fact.attributes[semconv.RECOVERY_SEGMENTS] == 2
    assert fact.attributes[semconv.RECOVERY_QUARANTINED_SPANS] == (
        first.quarantined_spans + second.quarantined_spans
    )
    assert fact.attributes[semconv.RECOVERY_QUARANTINED_BYTES] == (
        first.quarantined_bytes + second.quarantined_bytes
    )
    assert second.kept_in[0].startswith("shop/quarantine/audits")
    assert len(second.kept_in) == 1, "its own"
    log.damage(8)
    cut_short(log, "repair")
    log.damage(12)
    log.recover()
    assert {fact.attributes[semconv.RECOVERY_MODE] for fact in log.facts[1:]} == set(MODES)


def test_a_compactions_quarantine_is_no_recoverys_and_a_damaged_note_tells_rather_twice(log: Log) -> None:
    log.damage(0)
    told = log.recover().kept_in
    log.damage(4)
    cut_short(log)
    quarantine = log.root / "shop" / "quarantine"
    lines = quarantine_lines(
        KeptSegment(v=1, segment="events/x", size_bytes=0, digest="ab", mode="compact"),
        [],
        lambda size, offset: b"",
    )
    (quarantine / "events-x-ab.ndjson").write_bytes(b"".join(lines))
    (quarantine / "events-y-cd.ndjson").write_bytes(b"damaged")
    log.facts.clear()
    shutil.copytree(log.root, log.root.parent / "copy")
    log.recover()
    assert len(files_told(log)) == 2
    assert files_told(log).isdisjoint({*told, "shop/quarantine/events-x-ab.ndjson"})
    other = Log(log.root.parent / "copy")
    (other.root / "shop" / "recovering.json").write_bytes(b"{}")
    other.recover()
    assert files_told(other) == {*told, *files_told(log)}


# --- trouble while recovering --------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here."""


class TroubledFs(UnsyncedFs):
    """Calls *before* with each call that changes something, and its number."""

    def __init__(self, before: Callable[[int, str, str], None]) -> None:
        self._numbers = count()
        self._before = before
        self._paths: dict[int, str] = {}

    def _call(self, name: str, path: str) -> None:
        self._before(next(self._numbers), name, path)

    def create(self, path: str) -> int:
        self._call("create", path)
        fd = super().create(path)
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes, /) -> int:
        self._call("write", self._paths[fd])
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._call("fsync", self._paths[fd])

    def fsync_folder(self, path: str) -> None:
        self._call("fsync_folder", path)

    def rename(self, source: str, target: str) -> None:
        self._call("rename", target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        super().unlink(path)

    def make_folder(self, path: str) -> None:
        self._call("make_folder", path)
        super().make_folder(path)


@pytest.fixture
def damaged(log: Log) -> Log:
    """A log with damage in three segments, a lost one, and a leftover."""
    log.recover()
    log.damage(0)
    log.damage(5, lambda data: data[: len(data) // 2])
    log.damage(9, lambda data: data[:800] + data[1100:])
    log.segments()[14].unlink()
    (log.root / "shop" / "verified.json.tmp").write_bytes(b"half")
    return log


def copies(log: Log, folder: Path) -> Iterator[Log]:
    for number in count():
        root = folder / f"copy{number}"
        shutil.copytree(log.root, root)
        yield Log(root)
        shutil.rmtree(root)


def test_what_is_taken_out_is_on_the_disk_before_the_segment_changes(log: Log) -> None:
    calls: list[str] = []

    def note(number: int, call: str, path: str) -> None:
        calls.append(f"{call} {Path(path).relative_to(log.root).parent / Path(path).suffix}".rstrip("/"))

    log.recover(fs=TroubledFs(note), record=lambda facts: ())
    assert calls[:16] == [
        "make_folder shop",
        "fsync_folder .",
        "create shop/.tmp",  # the note that this is not recorded yet
        "write shop/.tmp",
        "fsync shop/.tmp",
        "rename shop/.json",
        "fsync_folder .",
        "create shop/quarantine/.tmp",
        "write shop/quarantine/.tmp",
        "fsync shop/quarantine/.tmp",
        "rename shop/quarantine/.ndjson",
        "fsync_folder shop",
        "create shop/audits/.tmp",
        "write shop/audits/.tmp",
        "fsync shop/audits/.tmp",
        "rename shop/audits/.ndjson",
    ]
    assert calls[16] == "fsync_folder shop"
    assert calls[-2:] == ["unlink shop/.json", "fsync_folder ."]


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", MODES)
def test_a_recovery_that_was_cut_short_anywhere_is_finished_by_the_next(
    damaged: Log, tmp_path: Path, mode: str
) -> None:
    logs = copies(damaged, tmp_path)
    whole = next(logs)
    whole.recover(mode)
    wanted = tree(whole.root)
    facts = facts_in(damaged.root)
    crashes = 0
    for stop_at in count():

        def crash(number: int, call: str, path: str, stop_at: int = stop_at) -> None:
            if number >= stop_at:  # and nothing after it: what cleans up does not run either
                raise Crash

        log = next(logs)
        try:
            log.recover(mode, fs=TroubledFs(crash))
        except Crash:
            crashes += 1
        else:
            break
        assert facts <= facts_in(log.root)
        log.recover(mode)
        assert tree(log.root) == wanted
        assert files_told(log) == files_told(whole)  # in however many facts
        if len(log.facts) == 1:
            assert log.facts[0].attributes == whole.facts[-1].attributes
    assert crashes > 20


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.EACCES])
def test_trouble_with_one_segment_leaves_it_as_it_was_and_the_others_go_on(
    damaged: Log, tmp_path: Path, number: int
) -> None:
    logs = copies(damaged, tmp_path)
    before = tree(damaged.root)
    calls = 0
    for fail_at in count():
        failed: list[str] = []

        def fail(at: int, call: str, path: str, fail_at: int = fail_at, failed: list[str] = failed) -> None:
            if at == fail_at:
                failed.append(path)
                raise OSError(number, errno.errorcode[number])

        log = next(logs)
        report = log.recover(fs=TroubledFs(fail))
        if not failed:
            break
        calls += 1
        after = tree(log.root)
        assert not [name for name in after if name.endswith(".tmp") and name != "shop/verified.json.tmp"]
        for skipped in report.skipped:
            if "left as it is" in skipped.reason:
                assert after[skipped.place] == before[skipped.place]
        assert len(report.rewritten) >= 2
        kept = {name for name in after.keys() - before.keys() if "/quarantine/" in name}
        assert set(report.kept_in) <= kept
        assert not [name for name in kept - set(report.kept_in) if b'"data"' in after[name]]
        log.recover()
        assert log.recover("ignore").found.unresolved == 0
    assert calls > 20


def test_a_system_that_cannot_be_locked_is_left_as_it_is(damaged: Log) -> None:
    class Fs(UnsyncedFs):
        def lock_folder(self, path: str) -> int | None:
            raise PermissionError(errno.EACCES, "Permission denied")

    before = tree(damaged.root)
    report = damaged.recover(fs=Fs())
    assert tree(damaged.root) == before
    assert [skipped.place for skipped in report.skipped] == ["shop"]


def test_a_newer_versions_segment_is_named_and_left(log: Log) -> None:
    path = log.damage(0, lambda data: newer() + b"damage\n" + data)
    before = path.read_bytes()
    report = log.recover()
    assert path.read_bytes() == before
    assert "newer version" in report.skipped[0].reason


def test_a_damaged_quarantine_file_explains_as_far_as_it_can_be_read(log: Log) -> None:
    log.recover()
    log.segments()[1].unlink()
    kept = log.root / log.recover().kept_in[0]
    kept.write_bytes(kept.read_bytes()[:-5])
    report = log.recover()
    assert report.rewritten == ()
    assert set(report.remaining.counts) <= {"corrupt_line", "torn_tail"}
