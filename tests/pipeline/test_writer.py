"""While the log is away facts wait, in order and bounded; what is lost is counted and explained."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papyra_otel import Fact, FactKind, LogUnavailable, semconv
from papyra_otel.pipeline.ring import Losses, Ring


def n_of(facts):
    return [fact.attributes.get("n") for fact in facts]


def test_through_mode_stores_before_emit_returns(pipeline):
    pipeline.emit(0)
    assert pipeline.log.attempts == 1
    assert pipeline.writer.waiting()[0] == 0


def test_facts_wait_while_the_log_is_away_and_are_stored_in_order(pipeline):
    pipeline.emit(0)
    pipeline.log.away = "ENOSPC"
    for n in range(1, 700):  # more than one batch
        pipeline.emit(n)
    assert pipeline.writer.waiting() == (699, 10_000, 1_700_000_000_000_000_001)
    assert pipeline.writer.drain() is False
    pipeline.log.away = None
    assert pipeline.writer.drain() is True
    facts = pipeline.log.facts()
    assert n_of(facts) == list(range(700))
    assert [fact.seq for fact in facts] == list(range(700))
    assert pipeline.counters.total(semconv.PERSISTENCE_DROPPED) == 0


def test_no_fact_overtakes_those_that_wait(pipeline):
    pipeline.log.away = "ENOSPC"
    pipeline.emit(0)
    pipeline.log.away = None
    pipeline.emit(1)
    assert pipeline.log.facts() == []
    pipeline.writer.drain()
    pipeline.emit(2)
    assert n_of(pipeline.log.facts()) == [0, 1, 2]


def test_an_outage_costs_the_actor_one_attempt_only(pipeline):
    pipeline.log.away = "ENOSPC"
    for n in range(100):
        pipeline.emit(n)
    assert pipeline.log.attempts == 1


def test_what_the_ring_cannot_hold_is_counted_and_explained(make_pipeline):
    pipeline = make_pipeline(capacity=3)
    pipeline.log.away = "ENOSPC"
    for n in range(10):
        pipeline.emit(n)
    dropped = pipeline.counters.read(semconv.PERSISTENCE_DROPPED)
    assert dropped == [(("memory", "event", "ENOSPC", "orders"), 7)]
    pipeline.log.away = None
    pipeline.writer.drain()
    facts = pipeline.log.facts()
    stored = {fact.seq for fact in facts}
    (told,) = [fact for fact in facts if fact.name == "papyra.fact.dropped"]
    assert told.severity == "ERROR"
    assert told.attributes[semconv.DROPPED_COUNT] == 7
    assert told.attributes[semconv.DROPPED_BY_KIND] == ["event=7"]
    assert told.attributes[semconv.DROPPED_RANGES] == [f"{told.writer}-event-0..6"]
    assert told.attributes["error.type"] == "ENOSPC"
    assert stored | set(range(7)) == set(range(11)), "every hole is explained"


def test_the_explanation_comes_once(make_pipeline):
    pipeline = make_pipeline(capacity=1)
    pipeline.log.away = "EIO"
    pipeline.emit(0)
    pipeline.emit(1)
    pipeline.log.away = None
    for _ in range(3):
        pipeline.writer.drain()
    assert [fact.name for fact in pipeline.log.facts()].count("papyra.fact.dropped") == 1


def test_a_fact_that_can_never_be_stored_does_not_block_the_others(pipeline, caplog):
    pipeline.log.refused_name = "bad"
    pipeline.emit(0)
    pipeline.emit(1, name="bad")
    pipeline.emit(2)
    pipeline.log.away = "EIO"
    for n, name in ((3, "good"), (4, "bad"), (5, "good")):
        pipeline.emit(n, name=name)
    pipeline.log.away = None
    pipeline.writer.drain()
    facts = pipeline.log.facts()
    assert n_of(fact for fact in facts if fact.name != "papyra.fact.dropped") == [0, 2, 3, 5]
    assert sum(f.attributes.get(semconv.DROPPED_COUNT, 0) for f in facts) == 2
    assert pipeline.counters.read(semconv.PERSISTENCE_DROPPED) == [
        (("memory", "event", "TypeError", "orders"), 2)
    ]


def test_an_interrupt_passes_and_its_hole_is_explained(pipeline, monkeypatch):
    def interrupted(facts):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.log, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.emit(0)
    monkeypatch.undo()
    pipeline.writer.drain()
    (told,) = pipeline.log.facts()
    assert told.attributes[semconv.DROPPED_RANGES] == [f"{told.writer}-event-0..0"]


def test_the_background_thread_stores_what_waits(make_pipeline):
    pipeline = make_pipeline(background=True, queued=True, jitter=lambda: 0.0)
    stored = threading.Event()
    original = pipeline.log.append

    def append(facts):
        original(facts)
        stored.set()

    pipeline.log.append = append
    pipeline.emit(0)
    assert stored.wait(10)
    assert n_of(pipeline.log.facts()) == [0]
    pipeline.writer.close()


def test_the_background_thread_tries_again_by_itself(make_pipeline):
    pipeline = make_pipeline(background=True, jitter=lambda: 0.0)
    stored = threading.Event()
    failures = iter(range(3))
    original = pipeline.log.append

    def append(facts):
        pipeline.log.away = "EIO" if next(failures, None) is not None else None
        original(facts)
        stored.set()

    pipeline.log.append = append
    pipeline.emit(0)
    assert stored.wait(10)
    assert n_of(pipeline.log.facts()) == [0]
    pipeline.writer.close()


def test_closing_tries_once_more_and_says_what_is_lost(pipeline):
    pipeline.log.away = "EIO"
    pipeline.emit(0)
    assert pipeline.writer.close() == (0, 1)
    assert pipeline.counters.total(semconv.PERSISTENCE_DROPPED) == 1


def test_a_closed_writer_counts_what_comes_later(pipeline):
    pipeline.writer.close()
    pipeline.emit(0)
    assert pipeline.counters.read(semconv.PERSISTENCE_DROPPED) == [
        (("memory", "event", "closed", "orders"), 1)
    ]


def test_a_forked_childs_writer_starts_empty(pipeline):
    pipeline.log.away = "EIO"
    pipeline.emit(0)
    pipeline.writer.after_fork_in_child()
    assert pipeline.writer.waiting()[0] == 0


def test_trouble_and_its_end_are_told_once_each(pipeline, caplog):
    pipeline.log.away = "EIO"
    for n in range(5):
        pipeline.emit(n)
    pipeline.writer.drain()
    pipeline.log.away = None
    pipeline.writer.drain()
    messages = [record.getMessage() for record in caplog.records]
    assert len([m for m in messages if "cannot write" in m]) == 1
    assert len([m for m in messages if "again" in m and "cannot" not in m]) == 1


# --- the ring by itself ---------------------------------------------------------------------------------

VALUES = {
    "m": (FactKind.EVENT, "papyra.message.processed"),
    "e": (FactKind.EVENT, "x"),
    "a": (FactKind.AUDIT, "x"),
}
VALUES["d"] = (FactKind.DEAD_LETTER, "x")
ORDER = "mead"


def fact_of(letter: str, n: int) -> Fact:
    kind, name = VALUES[letter]
    return Fact(kind=kind, name=name, time_unix_nano=n, system="s", writer="0" * 16, seq=n)


def letter_of(fact: Fact) -> str:
    return next(letter for letter, (kind, name) in VALUES.items() if (kind, name) == (fact.kind, fact.name))


def model_shed(held: list[Fact]) -> Fact:
    victim = min(held, key=lambda fact: (ORDER.index(letter_of(fact)), held.index(fact)))
    held.remove(victim)
    return victim


@given(st.lists(st.sampled_from("meadtb"), max_size=80), st.integers(1, 6))
def test_the_ring_keeps_order_and_sheds_the_least_valuable_oldest_first(steps, capacity):
    ring, model, in_hand = Ring(capacity, 1 << 30), [], []
    for n, step in enumerate(steps):
        if step == "t":
            in_hand = ring.take(2)
            assert in_hand == model[:2]
            del model[:2]
        elif step == "b":
            shed = ring.put_back(in_hand)
            model[:0] = in_hand
            in_hand = []
            assert shed == [model_shed(model) for _ in range(max(0, len(model) - capacity))]
        else:
            fact = fact_of(step, n)
            model.append(fact)
            shed = ring.put(fact)
            assert shed == [model_shed(model) for _ in range(max(0, len(model) - capacity))]
        assert len(ring) == len(model)
        assert ring.oldest_unix_nano() == (model[0].time_unix_nano if model else None)
    assert ring.clear() == model


def test_the_ring_is_bounded_in_bytes_too():
    ring = Ring(1000, 10_000)
    shed = []
    for n in range(100):
        fact = Fact(
            kind=FactKind.EVENT, name="x", time_unix_nano=n, system="s", attributes={"t": "x" * 1000}, seq=n
        )
        shed += ring.put(fact)
    assert len(ring) <= 10
    assert len(ring) + len(shed) == 100


def test_the_rings_bookkeeping_does_not_grow_while_it_stays_full():
    ring = Ring(10, 1 << 30)
    for n in range(10_000):
        ring.put(fact_of("d" if n < 5 else "m", n))
    assert sum(len(cells) for cells in (ring._order, *ring._by_value)) < 100


@given(st.lists(st.integers(0, 300), unique=True, max_size=300))
def test_losses_cover_every_lost_number_and_count_exactly(seqs):
    losses = Losses()
    for seq in seqs:
        losses.add(fact_of("e", seq), "EIO")
    told = list(losses.take())
    assert bool(losses) is False
    if not seqs:
        assert told == []
        return
    ranges = [text.rpartition("-")[2].split("..") for text in told[0][semconv.DROPPED_RANGES]]
    covered = {n for start, end in ranges for n in range(int(start), int(end) + 1)}
    assert covered >= set(seqs)
    assert len(ranges) <= 64
    assert told[0][semconv.DROPPED_COUNT] == len(seqs)
    if len(ranges) < 64:
        assert covered == set(seqs)


# --- a full disk, and losses of losses -----------------------------------------------------------------


def fact_named(name: str) -> dict[str, object]:
    return {
        "timestamp": 1,
        "severity_text": "INFO",
        "attributes": {"papyra.system.id": "orders"},
        "event_name": name,
    }


def full_for_events(log):
    """Let *log* take only dead letters and audits, as a full disk with a little reserve."""
    original = log.append

    def append(facts):
        if any(fact.kind is FactKind.EVENT for fact in facts):
            raise LogUnavailable("no space left", error_type="ENOSPC")
        original(facts)

    log.append = append
    return original


def test_dead_letters_and_audits_do_not_wait_behind_events_for_space(pipeline):
    original = full_for_events(pipeline.log)
    for n in range(3):
        pipeline.emit(n)
    for _ in range(700):
        pipeline.logger.emit(**fact_named(semconv.DEAD_LETTER_CAPTURED))
        pipeline.logger.emit(**fact_named(semconv.AUDIT_COMPLETED))
    assert pipeline.log.facts() == []
    assert pipeline.writer.drain() is False
    stored = pipeline.log.facts()
    assert [fact.seq for fact in stored if fact.kind is FactKind.DEAD_LETTER] == list(range(700))
    assert [fact.seq for fact in stored if fact.kind is FactKind.AUDIT] == list(range(700))
    assert pipeline.writer.waiting()[0] == len(stored) - 1400 + 3
    pipeline.log.append = original
    assert pipeline.writer.drain() is True
    assert [fact.seq for fact in pipeline.log.facts() if fact.kind is FactKind.EVENT] == [0, 1, 2]


def test_another_trouble_than_space_tries_nothing_out_of_turn(pipeline):
    pipeline.log.away = "EIO"
    pipeline.emit(0)
    pipeline.logger.emit(**fact_named(semconv.DEAD_LETTER_CAPTURED))
    attempts = pipeline.log.attempts
    assert pipeline.writer.drain() is False
    assert pipeline.log.attempts == attempts + 1


def test_a_lost_explanation_is_explained_again(make_pipeline):
    pipeline = make_pipeline(capacity=2)
    pipeline.log.away = "ENOSPC"
    for n in range(6):
        pipeline.emit(n)  # 0 to 3 are lost
    pipeline.log.away = None
    told = pipeline.writer.tell

    def tell(attributes):
        pipeline.log.away = "ENOSPC"  # again, just now
        told(attributes)

    pipeline.writer.tell = tell
    pipeline.writer.drain()
    pipeline.writer.tell = told
    for _ in range(3):
        pipeline.logger.emit(**fact_named(semconv.DEAD_LETTER_CAPTURED))
    for _ in range(3):
        pipeline.logger.emit(**fact_named(semconv.FACT_DROPPED))
    pipeline.log.away = None
    for _ in range(3):
        pipeline.writer.drain()
    facts = pipeline.log.facts()
    stored = {(fact.kind, fact.seq) for fact in facts}
    explained = {
        (FactKind(kind), seq)
        for fact in facts
        for text in fact.attributes.get(semconv.DROPPED_RANGES, ())
        for _, kind, seqs in [text.split("-")]
        for seq in range(int(seqs.split("..")[0]), int(seqs.split("..")[1]) + 1)
    }
    for kind in (FactKind.EVENT, FactKind.DEAD_LETTER):
        last = max(seq for each, seq in stored if each is kind) if kind is FactKind.EVENT else 2
        assert {(kind, seq) for seq in range(last + 1)} <= stored | explained
    assert (FactKind.EVENT, 0) in explained


def test_what_a_lost_explanation_counted_is_counted_on():
    losses = Losses()
    told = Fact(
        kind=FactKind.EVENT,
        name=semconv.FACT_DROPPED,
        time_unix_nano=1,
        system="s",
        writer="0" * 16,
        seq=9,
        attributes={
            semconv.DROPPED_RANGES: [f"{'0' * 16}-event-2..4", f"{'0' * 16}-audit-7..7"],
            semconv.DROPPED_BY_KIND: ["event=3", "audit=1"],
        },
    )
    losses.add(fact_of("e", 5), "EIO")
    losses.add(told, "EIO")
    losses.add(
        Fact(
            kind=FactKind.EVENT,
            name=semconv.FACT_DROPPED,
            time_unix_nano=1,
            system="s",
            writer="0" * 16,
            seq=10,
            attributes={semconv.DROPPED_RANGES: ["odd", 1, "a-b-c"], semconv.DROPPED_BY_KIND: "odd"},
        ),
        "EIO",
    )
    (again,) = losses.take()
    assert again[semconv.DROPPED_COUNT] == 7
    assert again[semconv.DROPPED_BY_KIND] == ["event=6", "audit=1"]
    assert again[semconv.DROPPED_RANGES] == [
        f"{'0' * 16}-event-2..5",
        f"{'0' * 16}-event-9..10",
        f"{'0' * 16}-audit-7..7",
    ]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=12),
    st.lists(st.integers(0, 40), unique=True),
)
def test_ranges_that_are_taken_over_are_joined_like_numbers(ranges, seqs):
    losses = Losses()
    for seq in seqs:
        losses.add(fact_of("e", seq), "EIO")
    lost = losses._of("s", "0" * 16, FactKind.EVENT)
    for first, more in ranges:
        lost.add_range(first, first + more)
    wanted = {*seqs} | {n for first, more in ranges for n in range(first, first + more + 1)}
    assert {n for a, b in zip(lost.starts, lost.ends, strict=True) for n in range(a, b + 1)} == wanted
    assert all(b + 1 < c for b, c in zip(lost.ends, lost.starts[1:], strict=False))


def test_trouble_ends_and_pauses_are_short_again_though_facts_never_cease_to_come(make_pipeline):
    pipeline = make_pipeline(queued=True, capacity=20)
    pipeline.log.away = "ECONNREFUSED"
    for n in range(30):
        pipeline.emit(n)
    assert pipeline.writer.drain() is False
    worker = pipeline.writer._worker
    worker._pause_seconds = 30.0
    pipeline.log.away = None
    append, more = pipeline.log.append, iter(range(1000, 1006))

    def append_while_facts_come(facts):
        append(facts)
        if (n := next(more, None)) is not None:
            pipeline.emit(n)
            told.append(any(fact.name == semconv.FACT_DROPPED for fact in pipeline.log.facts()))

    told: list[bool] = []
    pipeline.log.append = append_while_facts_come
    assert pipeline.writer.drain() is True
    assert told[:2] == [False, True], "what was lost is told at once, not when no more facts come"
    assert worker._pause_seconds < 1.0
