"""What ``doctor`` looks at where facts are to be delivered from the log: whether the settings for that are right."""

from __future__ import annotations

from collections.abc import Iterator

from papyra_otel.config import ForwardMode, Settings
from papyra_otel.errors import PapyraOtelError
from papyra_otel.log import open_log
from papyra_otel.reports import Check

__all__ = ["delivery_checks"]


def delivery_checks(settings: Settings) -> Iterator[Check]:
    """Yield the check of ``forward=outbox``; nothing with another mode. The receiver is not asked."""
    if settings.forward is not ForwardMode.OUTBOX:
        return
    from papyra_otel.pipeline.delivery.outbox import new_client  # noqa: PLC0415 - gRPC is slow to import
    from papyra_otel.pipeline.delivery.target import Target  # noqa: PLC0415 - as above

    try:
        target = Target.load()
        new_client(target).close()
        with open_log(settings.log) as log:
            log.outlet()
    except PapyraOtelError as error:
        yield Check(
            name="delivery",
            ok=False,
            detail=f"forward=outbox: {error}",
            remedy="facts would be recorded, and not delivered; see docs/forwarding.md",
        )
    else:
        yield Check(name="delivery", ok=True, detail=f"from the log to {target.shown}")
