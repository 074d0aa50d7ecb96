"""Everything that may happen to streams behind our back, caused for real, and what a scan makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest

from papyra_otel import semconv
from papyra_otel.facts import Fact, FactKind
from papyra_otel.log.codec import sign
from papyra_otel.log.redis.fence import field_of
from papyra_otel.reports import Progress, ScanReport, StreamScan
from redislog.workshop import Fields, Workshop, event, flipped


def of_system(system: str, number: int) -> Fact:
    return msgspec.structs.replace(event(number), system=system)


Change = Callable[[bytes], bytes]


def newer(line: bytes) -> bytes:
    said = json.loads(line)
    del said["crc"]
    return sign(json.dumps({**said, "v": 2}, separators=(",", ":")).encode())


def of_kind(line: bytes, kind: str) -> bytes:
    said = json.loads(line)
    del said["crc"]
    return sign(json.dumps({**said, "kind": kind}, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("change", "anomaly"),
    [
        (lambda line: flipped(line, 30), "crc_mismatch"),
        (lambda line: line[:-1] + b"\x0b", "torn_inside"),
        (lambda _: b"", "corrupt_line"),
        (lambda _: b"hello\n", "corrupt_line"),
        (lambda _: b'{"level":"info"}\n', "foreign_json"),
        (lambda line: of_kind(line, "segment.open"), "schema_invalid"),
        (lambda line: of_kind(line, "rumour"), "schema_invalid"),
        (lambda line: line[:-1] + b" " * (1 << 20) + b"\n", "oversize_line"),
        (lambda line: line[:50] + b"\0" * 40 + line[90:], "nul_run"),
        (lambda _: b"\0\0\0", "nul_run"),
        (lambda line: line[:80], "torn_inside"),
        (lambda line: line[:80] + line, "torn_inside"),
    ],
)
def test_damage_in_an_entry(shop: Workshop, change: Change, anomaly: str) -> None:
    shop.write(5)
    shop.set_data(2, change)
    report = shop.scan()
    assert report.counts == {anomaly: 1, "gap": 1}
    found = next(each for each in report.anomalies if each.type == anomaly)
    assert found.place == f"{shop.events} {shop.entries()[2][0].decode()}"
    assert (found.length, found.system, found.kind) == (1, "shop", FactKind.EVENT)
    (stored,) = shop.entries()[2][1].values()
    scan = report.streams[FactKind.EVENT]
    assert (scan.records, scan.damaged_bytes) == (4, len(stored))
    assert scan.size_bytes == scan.good_bytes + scan.damaged_bytes
    assert shop.read() == [0, 1, 3, 4]


def test_a_line_without_its_end_is_read_but_told(shop: Workshop) -> None:
    shop.write(5)
    shop.set_data(2, lambda line: line[:-1])
    assert shop.counts() == {"lost_newline": 1}
    assert shop.read() == [0, 1, 2, 3, 4]


def test_a_newer_version_is_kept_and_accuses_nobody(shop: Workshop) -> None:
    shop.write(5)
    shop.set_data(4, newer)
    report = shop.scan()
    assert report.counts == {"future_version": 1}
    assert report.healthy
    assert report.streams[FactKind.EVENT].newer_bytes == len(shop.entries()[4][1][b"data"])


def test_an_entry_with_other_fields_than_ours(shop: Workshop) -> None:
    shop.write(5)

    def change(entries: list[tuple[bytes, Fields]]) -> None:
        entries[1] = entries[1][0], {b"data": entries[1][1][b"data"], b"more": b"x"}

    shop.rebuild(change)
    report = shop.scan()
    assert report.counts == {"corrupt_line": 1, "gap": 1}
    assert "'data', 'more', where 'data' alone" in report.anomalies[0].detail
    assert shop.read() == [0, 2, 3, 4]


def test_the_same_fact_twice(shop: Workshop) -> None:
    shop.write(5)
    shop.client.xadd(shop.events, shop.entries()[1][1])
    assert shop.counts() == {"duplicate": 1}
    assert shop.read() == [0, 1, 2, 3, 4]


def test_another_fact_of_the_same_identity(shop: Workshop) -> None:
    shop.write(5)
    said = json.loads(shop.entries()[1][1][b"data"])
    del said["crc"]
    other = sign(json.dumps({**said, "actor": "shop/other"}, separators=(",", ":")).encode())
    shop.client.xadd(shop.events, {"data": other})
    assert shop.counts() == {"fork_conflict": 1}


def test_facts_in_another_order(shop: Workshop) -> None:
    shop.write(5)

    def swap(entries: list[tuple[bytes, Fields]]) -> None:
        entries[1:3] = [(entries[1][0], entries[2][1]), (entries[2][0], entries[1][1])]

    shop.rebuild(swap)
    assert shop.counts() == {"out_of_order": 1}


def test_a_fact_in_the_stream_of_another_kind_or_system(shop: Workshop) -> None:
    shop.write(5)
    with shop.open() as log:
        log.append([event(7), of_system("depot", 9)])
    line = shop.entries()[0][1][b"data"]
    shop.client.xadd(shop.tag.stream(FactKind.AUDIT), {"data": line})
    shop.client.xadd(shop.events, shop.entries("papyra:{depot}:events")[0][1])
    report = shop.scan()
    assert report.counts == {"fork_conflict": 2}
    assert {each.detail for each in report.anomalies} == {
        "a fact of kind event in the wrong stream",
        "a fact of system 'depot' in the wrong stream",
    }


def test_an_entry_deleted_in_the_middle(shop: Workshop) -> None:
    shop.write(5)
    shop.client.xdel(shop.events, shop.entries()[2][0])
    report = shop.scan()
    assert report.counts == {"gap": 1}
    assert report.anomalies[0].detail == "seq 2 missing before this place, for no known reason"
    assert report.anomalies[0].place == f"{shop.events} {shop.entries()[2][0].decode()}"


def test_the_end_deleted(shop: Workshop) -> None:
    shop.write(5)
    shop.client.xdel(shop.events, *(entry_id for entry_id, _ in shop.entries()[3:]))
    report = shop.scan()
    assert report.counts == {"gap": 1}
    assert report.anomalies[0].detail == "seqs 3 to 4 missing at the end, for no known reason"


def test_the_beginning_trimmed_by_somebody_else(shop: Workshop) -> None:
    shop.write(5)
    shop.client.xtrim(shop.events, maxlen=2, approximate=False)
    report = shop.scan()
    assert report.counts == {"head_missing": 1}
    assert "seqs 0 to 2 missing at the beginning" in report.anomalies[0].detail


def test_the_whole_stream_deleted(shop: Workshop) -> None:
    shop.write(5)
    shop.client.delete(shop.events)
    report = shop.scan()
    assert report.counts == {"segment_missing": 1}
    assert (report.places, report.anomalies[0].place) == (1, shop.events)
    assert shop.read() == []


def test_what_a_living_writer_stored_and_is_gone_is_told_at_once(shop: Workshop) -> None:
    log = shop.open()
    log.append([event(0)])
    log.reserve("shop", FactKind.EVENT)
    log.append([event(1)])
    assert shop.counts() == {}  # it may explain the hole yet
    shop.client.xdel(shop.events, shop.entries()[1][0])
    assert shop.counts() == {"gap": 1}
    log.close()


def test_a_writer_that_has_been_silent_for_long_is_dead(shop: Workshop) -> None:
    log = shop.open()
    log.append([event(0)])
    log.reserve("shop", FactKind.EVENT)
    log.append([event(1)])
    shop.silence()
    report = shop.scan()
    assert report.counts == {"gap": 1, "unclean_shutdown": 1}
    assert "silent for 36" in report.anomalies[1].detail
    log.append([event(2)])
    assert shop.counts() == {}
    log.close()


@pytest.mark.parametrize("what", ["events", "fence", "meta", "quarantine"])
def test_a_key_that_holds_something_else(shop: Workshop, what: str) -> None:
    shop.write(5)
    key = shop.tag.key(what)
    shop.client.delete(key)
    shop.client.set(key, "x")
    report = shop.scan()
    assert report.counts["unreadable"] == 1
    (found,) = [each for each in report.anomalies if each.type == "unreadable"]
    assert found.place == key
    assert found.detail.startswith("holds a string, not a ")


def test_an_index_that_holds_something_else_or_is_gone(shop: Workshop) -> None:
    shop.write(5)
    for command in (("DEL", "papyra:systems"), ("SET", "papyra:systems", "x")):
        shop.client.execute_command(*command)
        report = shop.scan()
        assert report.counts == {"unexpected_file": 1}
        assert report.anomalies[0].place == "papyra:systems"
        assert shop.read() == [0, 1, 2, 3, 4]


def test_a_tag_that_is_not_in_the_index(shop: Workshop) -> None:
    shop.write(5)
    with shop.open() as log:
        log.append([of_system("depot", 7)])
    shop.client.srem("papyra:systems", "shop")
    report = shop.scan()
    assert report.counts == {"unexpected_file": 1}
    assert report.systems == ("depot", "shop")
    assert shop.scan(incremental=True).systems == ("depot",)


def test_keys_of_others_under_our_names(shop: Workshop) -> None:
    shop.write(5)
    shop.client.set("papyra:{shop}:whatever", "x")
    shop.client.set("papyra-and-more", "x")
    report = shop.scan()
    assert report.counts == {"unexpected_file": 1}
    assert report.anomalies[0].place == "papyra:{shop}:whatever"


def test_a_fence_that_lacks_a_writer(shop: Workshop) -> None:
    shop.write(5)
    shop.write(2, start=5)
    writer = json.loads(shop.entries()[0][1][b"data"])["writer"]
    shop.client.hdel(shop.tag.fence, field_of(writer, FactKind.EVENT))
    report = shop.scan()
    assert report.counts == {"segment_digest": 1}
    assert report.anomalies[0].writer == writer
    assert report.anomalies[0].detail == "knows nothing of a writer with 5 facts: readers do not see them"


@pytest.mark.parametrize("member", ["seq", "first", "last", "records", "size_bytes"])
def test_a_fence_that_tells_something_else(shop: Workshop, member: str) -> None:
    shop.write(5)
    ((field, value),) = shop.client.hgetall(shop.tag.fence).items()
    parts = value.split(b" ")
    ids = shop.entries()
    wrong = {"seq": (0, b"3"), "first": (3, ids[1][0]), "last": (4, ids[3][0])}
    wrong |= {"records": (1, b"4"), "size_bytes": (2, b"44")}
    at, value = wrong[member]
    parts[at] = value
    shop.client.hset(shop.tag.fence, field, b" ".join(parts))
    assert shop.counts() == {"segment_digest": 1}


def test_strange_fields_of_the_fence(shop: Workshop) -> None:
    shop.write(5)
    shop.client.hset(shop.tag.fence, "x", "y")
    shop.client.hset(shop.tag.fence, field_of("a" * 16, FactKind.EVENT), "what")
    assert shop.counts() == {"segment_digest": 2}
    assert shop.read() == [0, 1, 2, 3, 4]


def test_a_clock_that_jumps_is_told_and_healthy(shop: Workshop) -> None:
    with shop.open() as log:
        log.append([event(0, time_unix_nano=10**18 + 600 * 10**9), event(1, time_unix_nano=10**18)])
    report = shop.scan()
    assert report.counts == {"clock_jump": 1}
    assert report.healthy


def test_a_drop_fact_of_another_writer_or_a_low_mark_explains(shop: Workshop) -> None:
    shop.write(5)
    writer = json.loads(shop.entries()[0][1][b"data"])["writer"]
    shop.client.xdel(shop.events, *(entry_id for entry_id, _ in shop.entries()[:3]))
    assert shop.counts() == {"head_missing": 1}
    with shop.open() as log:
        marks = {semconv.COMPACTION_LOW_MARKS: [f"{writer}-event-2"]}
        ranges = {semconv.DROPPED_RANGES: [f"{writer}-event-2..2"]}
        log.append([event(8, name=semconv.LOG_COMPACTED, attributes=marks)])
        assert shop.counts() == {"head_missing": 1}
        log.append([event(9, name=semconv.FACT_DROPPED, attributes=ranges)])
    assert shop.counts() == {}


def test_an_explanation_that_is_written_while_the_scan_runs_counts(shop: Workshop) -> None:
    shop.write(5)
    writer = json.loads(shop.entries()[0][1][b"data"])["writer"]
    shop.client.xdel(shop.events, shop.entries()[2][0])
    late = shop.open()

    def progress(_: Progress) -> None:
        ranges = {semconv.DROPPED_RANGES: [f"{writer}-event-2..2"]}
        late.append([event(9, name=semconv.FACT_DROPPED, attributes=ranges)])

    assert shop.scan(progress=progress).counts == {}
    late.close()


def test_nothing_is_written(shop: Workshop) -> None:
    shop.write(5)
    shop.set_data(1, lambda line: line[:40])
    before = _everything(shop)
    shop.scan()
    shop.scan(incremental=True)
    assert _everything(shop) == before


def _everything(shop: Workshop) -> dict[bytes, bytes]:
    return {key: shop.client.dump(key) for key in sorted(shop.client.keys())}


# --- going on from what was verified ----------------------------------------------------------------------


def remembered(shop: Workshop, **more: object) -> ScanReport:
    with shop.open() as log:
        report = log.scan(incremental=True, **more)
        log.remember()
        return report


def test_what_was_verified_is_not_read_again(shop: Workshop) -> None:
    shop.write(50)
    whole = remembered(shop)
    assert (whole.places_remembered, whole.complete) == (0, True)
    again = remembered(shop)
    assert (again.places_remembered, again.read_bytes, again.complete) == (1, 0, False)
    assert again.streams == whole.streams
    shop.write(3, start=50)
    more = remembered(shop)
    assert more.read_bytes == sum(len(fields[b"data"]) for _, fields in shop.entries()[50:])
    full = shop.scan()
    assert (more.streams, more.counts, more.writers) == (full.streams, full.counts, full.writers)
    assert full.read_bytes > more.read_bytes


@pytest.mark.parametrize(
    "harm",
    [
        lambda shop: shop.client.xdel(shop.events, shop.entries()[2][0]),
        lambda shop: shop.client.xtrim(shop.events, maxlen=4, approximate=False),
        lambda shop: shop.client.delete(shop.events),
        lambda shop: shop.client.xadd(shop.events, shop.entries()[2][1]),
        lambda shop: shop.client.xadd(shop.events, {"data": b"what"}),
        lambda shop: shop.client.hset(shop.tag.meta, "verified:event", b"{}"),
        lambda shop: shop.client.hset(shop.tag.meta, "verified:event", b"\xff"),
        lambda shop: shop.client.hdel(shop.tag.fence, *shop.client.hkeys(shop.tag.fence)),
    ],
)
def test_an_incremental_scan_finds_what_a_full_one_does(
    shop: Workshop, harm: Callable[[Workshop], object]
) -> None:
    shop.write(5)
    remembered(shop)
    harm(shop)
    found, whole = shop.scan(incremental=True), shop.scan()
    assert (found.counts, found.streams) == (whole.counts, whole.streams)


def test_damage_is_looked_at_each_time(shop: Workshop) -> None:
    shop.write(5)
    shop.set_data(1, lambda line: line[:40])
    for _ in range(2):
        report = remembered(shop)
        assert report.counts == {"torn_inside": 1, "gap": 1}
        assert report.complete


def test_scans_that_run_out_of_time_come_to_an_end_together(shop: Workshop) -> None:
    shop.write(300)
    with shop.open() as log:
        log.append([event(n, kind=FactKind.AUDIT) for n in range(3)])
    whole = shop.scan()
    reports = [remembered(shop, seconds_max=0.0) for _ in range(12)]
    assert reports[0].places_unread == 1  # audits were read whole
    assert [report.counts for report in reports] == [{}] * 12
    assert [report.places_unread for report in reports][-1] == 0
    read = [report.streams[FactKind.EVENT].records for report in reports]
    assert read == sorted(read)
    assert reports[-1].streams == whole.streams
    assert sum(report.read_bytes for report in reports) == whole.read_bytes


def test_remembering_never_raises(shop: Workshop) -> None:
    with shop.open() as log:
        log.remember()
        log.append([event(0)])
        log.scan()
        shop.client.delete(shop.tag.meta)
        shop.client.set(shop.tag.meta, "x")
        log.remember()


def test_long_lines_are_read_few_at_a_time(shop: Workshop) -> None:
    with shop.open() as log:
        log.append([event(n) for n in range(600)])
        log.append([event(n, attributes={"n": n, "x": "y" * 100_000}) for n in range(300)])
    steps = [0]
    report = shop.scan(progress=lambda progress: steps.append(progress.done_bytes))
    assert report.streams[FactKind.EVENT] == StreamScan(
        records=900, size_bytes=report.read_bytes, good_bytes=report.read_bytes
    )
    assert steps[-1] == report.read_bytes
    sizes = sorted(after - before for before, after in pairwise(steps))
    assert sizes[-2] < 2_500_000 < sizes[-1] < 26_000_000  # once more than a page: nobody knew
