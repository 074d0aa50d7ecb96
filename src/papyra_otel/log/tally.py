"""Anomalies as a scan finds them: counted exactly, kept up to a number of each type."""

from __future__ import annotations

import msgspec

from papyra_otel.reports import ANOMALIES_KEPT_MAX, Anomaly

__all__ = ["Tally"]


class Tally(msgspec.Struct):
    """Anomalies counted exactly and kept up to a number of each type."""

    counts: dict[str, int] = {}
    kept: list[Anomaly] = []

    def add(self, anomaly: Anomaly) -> None:
        """Count *anomaly* and keep it while there is room."""
        count = self.counts[anomaly.type] = self.counts.get(anomaly.type, 0) + 1
        if count <= ANOMALIES_KEPT_MAX:
            self.kept.append(anomaly)

    def add_all(self, other: Tally) -> None:
        """Add what *other* counted."""
        room = {name: ANOMALIES_KEPT_MAX - self.counts.get(name, 0) for name in other.counts}
        for anomaly in other.kept:
            if room[anomaly.type] > 0:
                room[anomaly.type] -= 1
                self.kept.append(anomaly)
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
