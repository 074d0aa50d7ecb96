"""One budget for all kinds, or one for each: who evicts whom."""

from __future__ import annotations

import pytest
from papyra.persistence.backends.retention import RetentionPolicy

from compare.sides import OurSide, PapyraSide

pytestmark = [pytest.mark.compare, pytest.mark.timeout(120)]


def test_events_evict_dead_letters(told, tmp_path):
    kept = {}
    for side in (
        PapyraSide(tmp_path / "papyra", RetentionPolicy(max_records=100)),
        OurSide(tmp_path / "ours", "100"),
    ):
        side.write(range(10), letters=True)
        side.write(range(1000))
        kept[side.name] = len(side.read(letters=True))
        assert len(side.read()) == 100
        side.compact()
        assert len(side.read(letters=True)) == kept[side.name]
        assert len(side.read()) in {99, 100}  # ours keeps a fact about the compaction among them
    assert kept == {"papyra": 0, "ours": 10}
    told("retention_kinds", papyra=f"{kept['papyra']} of 10", ours=f"{kept['ours']} of 10")
