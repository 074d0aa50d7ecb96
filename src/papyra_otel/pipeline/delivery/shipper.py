"""Facts out of an outlet to a receiver: what each answer means, when to try again, whom to blame.

A batch that the receiver will never take is halved until the record is found that is why. A record is blamed only on
evidence: the receiver must have taken another one of the same batch or, where there is none, it must have taken
something before and take an empty request now. Otherwise the fault is not the record's (a wrong path, a missing
tenant), and everything waits in the log until somebody puts that right. Nothing is given up for failing often.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from papyra_otel import semconv
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import Fact
from papyra_otel.log.outlet import Batch, Item, Outlet, Refusal
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.delivery.outcome import Accepted, Later, Outcome, Refused

__all__ = ["BATCH_BYTES_MAX", "BATCH_RECORDS_MAX", "Client", "Shipper"]

BATCH_RECORDS_MAX = 512
BATCH_BYTES_MAX = 1 << 20
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
LONGEST_OBEYED_SECONDS = 600.0  # what a receiver may ask for
SUSPECT_AFTER = 8  # so many times INTERNAL or 500 for one request: the data may be why
SUSPECT_PART_AFTER = 2  # while a request that was suspect is being halved
REMIND_SECONDS = 600.0


class _RefusesEverything(Exception):
    """The receiver refuses what it is sent, and the records are not to blame as far as is known."""


class Client(Protocol):
    """Speaks with one receiver. ``close`` may come from another thread, and ends what is under way."""

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Send a request; return what became of it. Never raises for what the receiver or the network does."""
        ...

    def close(self) -> None:
        """Give up connections."""
        ...


class Shipper:
    """Delivers batches of *outlet* with *client*. For one thread.

    *encode* makes a request of items. *wanted* says which facts leave at all. *told* is given what an operator has to
    know, in one line, seldom. *pause* waits so many seconds and returns False when it is time to end. *timeout_seconds*
    returns how long the next request may take.
    """

    def __init__(
        self,
        outlet: Outlet,
        client: Client,
        encode: Callable[[Sequence[Item]], bytes],
        counters: Counters,
        *,
        receiver: str,
        wanted: Callable[[Fact], bool],
        told: Callable[[str], None],
        pause: Callable[[float], bool],
        timeout_seconds: Callable[[], float],
        ticks: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outlet = outlet
        self._client = client
        self._encode = encode
        self._counters = counters
        self._receiver = receiver
        self._wanted = wanted
        self._told = told
        self._pause = pause
        self._timeout_seconds = timeout_seconds
        self._ticks = ticks
        self._jitter = jitter
        self._taken_before = False
        self._trouble: str | None = None
        self._remind_at = 0.0
        self._remarks: dict[str, float] = {}
        self._failures = 0
        self.delivered: int = 0
        self.refused: int = 0

    @property
    def failing(self) -> bool:
        """Whether the receiver did not take what it was sent last."""
        return self._failures > 0

    def step(self) -> int | None:
        """Deliver one batch; return how many facts it had (0: there is nothing new), None if it is time to end.

        Raises LogUnavailable when the log cannot be read.
        """
        while True:
            batch = self._outlet.next_batch(self._wanted, BATCH_RECORDS_MAX, BATCH_BYTES_MAX)
            if not batch.passed:
                return 0
            try:
                refusals = self._settled(batch.items) if batch.items else []
            except _RefusesEverything as said:
                goes_on = self._wait(Later(error_type="refused", message=f"it refuses everything: {said}"))
                self._outlet.rewind()  # what came meanwhile may show whether it does
                if goes_on:
                    continue
                return None
            if refusals is None:
                self._outlet.rewind()
                return None
            self._finish(batch, refusals)
            return batch.passed

    # --- one batch ------------------------------------------------------------------------------------

    def _settled(self, items: Sequence[Item]) -> list[Refusal] | None:
        """Have the receiver decide about every one of *items*; return those it will never take. None: time to end.

        Raises _RefusesEverything when there is no evidence against single ones.
        """
        work = deque([items])
        refusals: list[Refusal] = []
        proven, said = False, ""
        while work:
            part = work.popleft()
            whole = len(part) == len(items)
            outcome = self._answered(part, SUSPECT_AFTER if whole else SUSPECT_PART_AFTER)
            if outcome is None:
                return None
            if isinstance(outcome, Accepted):
                proven = True
                self._count_taken(part, outcome)
                continue
            said = outcome.message
            proven = proven or outcome.certain
            if len(part) == 1:
                refusals.append(Refusal(fact=part[0].fact, error_type=outcome.error_type, message=said))
            elif whole and not outcome.certain and not self._takes_nothing():
                raise _RefusesEverything(said)
            else:
                half = len(part) // 2
                work.extendleft((part[half:], part[:half]))
        if refusals and not proven and not (self._taken_before and self._takes_nothing()):
            raise _RefusesEverything(said)
        return refusals

    def _answered(self, items: Sequence[Item], suspect_after: int) -> Accepted | Refused | None:
        """Send *items* until the receiver decides about them; None: time to end."""
        try:
            request = self._encode(items)
        except Exception as error:  # a record that no encoder takes must not keep the others
            return Refused(
                error_type="encoding", message=f"cannot be encoded: {type(error).__name__}", certain=True
            )
        suspicions = 0
        while True:
            outcome = self._client.send(request, self._timeout_seconds())
            if not isinstance(outcome, Later):
                self._recovered(outcome)
                return outcome
            suspicions += outcome.suspect
            if suspicions >= suspect_after:
                return Refused(error_type=outcome.error_type, message=outcome.message)
            if not self._wait(outcome):
                return None

    def _takes_nothing(self) -> bool:
        """Say whether the receiver takes an empty request: then it is what we think it is, and lets us in."""
        return isinstance(self._client.send(self._encode(()), self._timeout_seconds()), Accepted)

    def _count_taken(self, items: Sequence[Item], outcome: Accepted) -> None:
        self._taken_before = True
        rejected = min(outcome.rejected, len(items))
        self.delivered += len(items) - rejected
        self._counters.add(semconv.DELIVERY_EXPORTED, ("",), len(items) - rejected)
        if rejected:
            self.refused += rejected
            self._counters.add(semconv.DELIVERY_EXPORTED, ("partial_success",), rejected)
            first, last = items[0].fact.uid, items[-1].fact.uid
            self._remark(
                "partial",
                f"{self._receiver} took a request and dropped {rejected} of its {len(items)} facts, it does not say "
                f"which, between {first} and {last}: {outcome.message or 'no reason given'}. The log has them.",
            )
        elif outcome.message:
            self._remark("warning", f"{self._receiver} warns: {outcome.message}")

    def _finish(self, batch: Batch, refusals: Sequence[Refusal]) -> None:
        if refusals:
            self._put_aside(batch, refusals)
        try:
            self._outlet.done(batch)
        except LogUnavailable as error:  # they are there: a crash from here on would deliver some again
            self._remark(
                "note",
                f"{str(error).rstrip('.')}. Delivery goes on; after a crash some facts are delivered again.",
            )

    def _put_aside(self, batch: Batch, refusals: Sequence[Refusal]) -> None:
        try:
            place = self._outlet.put_aside(refusals)
        except LogUnavailable as error:
            place = f"the log only ({str(error).rstrip('.')})"
        first = refusals[0]
        self._remark(
            "refused",
            f"{self._receiver} refuses {len(refusals)} of {len(batch.items)} facts for good "
            f"({first.error_type}: {first.message}), the first is {first.fact.uid}; they are kept in {place}.",
        )
        self.refused += len(refusals)
        for refusal in refusals:
            self._counters.add(semconv.DELIVERY_EXPORTED, (refusal.error_type,))

    # --- trouble --------------------------------------------------------------------------------------

    def _wait(self, outcome: Later) -> bool:
        """Say what is wrong, if that is news, and wait; return False if it is time to end."""
        now = self._ticks()
        if self._trouble != outcome.error_type or now >= self._remind_at:
            self._trouble, self._remind_at = outcome.error_type, now + REMIND_SECONDS
            self._told(
                f"facts cannot be delivered to {self._receiver}: {outcome.message}. "
                f"They stay in the log, and delivery is tried again until it works."
            )
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 16), LONGEST_PAUSE_SECONDS)
        self._failures += 1
        asked = min(outcome.after_seconds or 0.0, LONGEST_OBEYED_SECONDS)
        return self._pause(max(pause * (0.5 + self._jitter() / 2), asked))

    def _recovered(self, outcome: Outcome) -> None:
        if not isinstance(outcome, Accepted):
            return
        self._failures = 0
        if self._trouble is not None:
            self._trouble = None
            self._told(f"facts are delivered to {self._receiver} again.")

    def _remark(self, what: str, message: str) -> None:
        """Tell *message* unless something of *what* was told lately."""
        now = self._ticks()
        if now >= self._remarks.get(what, now):
            self._remarks[what] = now + REMIND_SECONDS
            self._told(message)
