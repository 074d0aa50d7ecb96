"""Who may recover or compact a tag's streams now: one at a time, on whatever host.

The right is a field of ``meta``, ``upkeep``: a token and the server's time until which it is valid. Who has it renews
it as it goes on, at least every ``UPKEEP_SECONDS``; who dies loses it by itself. A pause may outlast it, so scripts
that change something check the token once more (``UPKEEP`` of ``meta`` begins with it) and change nothing without.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, TypeVar

import redis

from papyra_otel.errors import LogBusy, LogUnavailable
from papyra_otel.log.redis.keys import Tag
from papyra_otel.log.redis.scripts import run
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Wire

__all__ = ["UPKEEP_SECONDS", "UpkeepLock"]

UPKEEP_SECONDS: Final = 30
_Lock = TypeVar("_Lock", bound="UpkeepLock")


class UpkeepLock:
    """The right to look after some tags' streams, held within a ``with`` block. Not thread-safe.

    Entering raises LogBusy if somebody else has that of any tag, LogUnavailable if it cannot be asked for; then
    nothing is held. Leaving gives all back and never raises.
    """

    def __init__(
        self,
        wire: Wire,
        shown: str,
        tags: Iterable[Tag],
        *,
        seconds: float = UPKEEP_SECONDS,
        new_token: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._wire = wire
        self._shown = shown
        self._tags = tuple(tags)
        self.token: Final = new_token()
        self.milliseconds: Final = int(seconds * 1000)

    def __enter__(self: _Lock) -> _Lock:
        try:
            for tag in self._tags:
                self._ask(tag, "take")
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def renew(self) -> None:
        """Keep the right for another ``UPKEEP_SECONDS``. Raises LogBusy if it was lost, LogUnavailable."""
        for tag in self._tags:
            self._ask(tag, "renew")

    def _release(self) -> None:
        for tag in self._tags:
            with suppress(LogUnavailable):  # it ends by itself
                self._ask(tag, "release")

    def _ask(self, tag: Tag, what: str) -> None:
        reply, _ = run(self._wire, "lock", [tag.meta], [what, self.token, self.milliseconds])
        if isinstance(reply, redis.RedisError):
            raise unavailable(self._shown, reply)
        if reply[0] == b"busy":
            raise LogBusy(
                f"system {tag.system!r} in {self._shown} is being recovered or compacted by another process; "
                f"try again when that is done, or in {reply[1] / 1000:.0f} s if it has died"
                if what == "take"
                else f"the upkeep of system {tag.system!r} in {self._shown} took too long between two steps, and "
                f"may have been taken over by another process; run it again"
            )
