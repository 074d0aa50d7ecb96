"""What recording does to the program when it cannot record, and what it keeps when the program ends."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from compare.sides import OurSide, PapyraSide, finish, start
from papyra_otel import semconv as s

pytestmark = [pytest.mark.compare, pytest.mark.timeout(120)]

STARTED = {"papyra": "ActorStarted", "ours": s.ACTOR_STARTED}
STOPPED = {"papyra": "ActorStopped", "ours": s.ACTOR_STOPPED}


def live(who: str, folder: Path, attack: str, count: int, *, code: int = 0) -> int:
    """Run the program and return how many asks were answered in it."""
    return int(finish(start("actors.py", who, folder, attack, count), code=code).split()[0])


def stored(who: str, folder: Path) -> Counter[str]:
    """Count what is on the disk, by name; dead letters of papyra's as that."""
    if who == "papyra":
        path = PapyraSide(folder).path
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return Counter(row.get("event_type", "dead letter") for row in rows)
    with OurSide(folder).open() as log:
        facts = (entry.fact for entry in log.read())
        return Counter("dead letter" if fact.name == s.DEAD_LETTER_CAPTURED else fact.name for fact in facts)


def both(tmp_path: Path) -> dict[str, Path]:
    folders = {who: tmp_path / who for who in ("papyra", "ours")}
    for folder in folders.values():
        folder.mkdir()
    return folders


def test_a_full_disk(told, tmp_path):
    done = {who: live(who, folder, "disk_full", 200) for who, folder in both(tmp_path).items()}
    assert done["ours"] == 200
    assert done["papyra"] < 200
    told("disk_full", papyra=done["papyra"], ours=done["ours"])


def test_a_folder_that_cannot_be_made(told, tmp_path):
    folders = both(tmp_path)
    for who in folders:
        (tmp_path / f"{who}-file").write_text("in the way")
    done = {who: live(who, tmp_path / f"{who}-file" / "sub", "ask", 20) for who in folders}
    assert done["ours"] == 20
    assert done["papyra"] < 20
    told("unwritable", papyra=done["papyra"], ours=done["ours"])


def test_a_payload_that_contains_itself(told, tmp_path):
    folders = both(tmp_path)
    done = {who: live(who, folder, "odd_payload", 20) for who, folder in folders.items()}
    assert done["ours"] == 20
    assert stored("ours", folders["ours"])["dead letter"] == 1
    assert done["papyra"] < 20
    told("odd_payload", papyra=done["papyra"], ours=done["ours"])


@pytest.mark.parametrize(("attack", "count"), [("shutdown_one", 1), ("shutdown_many", 50)])
def test_an_orderly_shutdown(told, tmp_path, attack, count):
    kept = {}
    for who, folder in both(tmp_path).items():
        assert live(who, folder, "ask", count) == count
        kept[who] = stored(who, folder)[STOPPED[who]]
    assert kept["ours"] == count
    assert kept["papyra"] < count
    told(attack, papyra=f"{kept['papyra']} of {count}", ours=f"{kept['ours']} of {count}")


@pytest.mark.parametrize(("attack", "how"), [("left_in_mailbox", "left"), ("late_letters", "late")])
def test_messages_around_a_shutdown(told, tmp_path, attack, how):
    kept = {}
    for who, folder in both(tmp_path).items():
        live(who, folder, how, 5)
        kept[who] = stored(who, folder)["dead letter"]
    assert kept["ours"] == 5
    assert kept["papyra"] < 5
    told(attack, papyra=f"{kept['papyra']} of 5", ours=f"{kept['ours']} of 5")


@pytest.mark.parametrize(("attack", "how", "code"), [("os_exit", "exit", 0), ("sigkill", "kill", -9)])
def test_a_hard_end_after_a_burst(told, tmp_path, attack, how, code):
    kept = {}
    for who, folder in both(tmp_path).items():
        assert live(who, folder, how, 1000, code=code) == 1000
        kept[who] = stored(who, folder)[STARTED[who]]
    assert kept["ours"] == 1000
    assert kept["papyra"] < 1000
    told(attack, papyra=f"{kept['papyra']} of 1,000", ours="1,000 of 1,000")


def test_a_maximum_age_and_facts_of_just_now(told, tmp_path):
    """papyra stamps with the event loop's clock, its retention compares with the wall's."""
    from papyra.persistence.backends.retention import RetentionPolicy

    folders = both(tmp_path)
    for who, folder in folders.items():
        assert live(who, folder, "age", 10) == 10
    hour = RetentionPolicy(max_age_seconds=3600)
    papyra = PapyraSide(folders["papyra"], hour)
    ours = OurSide(folders["ours"], "1h")

    def readable() -> tuple[int, int]:
        with ours.open() as log:
            return len(papyra.records()), len(list(log.read(name=s.ACTOR_STARTED)))

    assert stored("papyra", folders["papyra"])["ActorStarted"] == 10
    before = readable()
    assert before == (0, 10)
    papyra.compact()
    ours.compact()
    size_bytes = papyra.path.stat().st_size
    after = readable()
    assert (size_bytes, after) == (0, (0, 10))
    told("retention_age", papyra=f"{before[0]} of 10", ours=f"{before[1]} of 10")
    told("retention_compact", papyra="0 of 10, the file has 0 bytes", ours=f"{after[1]} of 10")
