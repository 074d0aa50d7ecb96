"""Delivery inside a process that records: a daemon thread, slow enough not to be in the way, and a bounded end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.resources import Resource

from papyra_otel import semconv
from papyra_otel.config import resource_attributes
from papyra_otel.errors import PapyraOtelError
from papyra_otel.log import FactLog
from papyra_otel.log.outlet import OUTLET, Backlog
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.delivery.deliverer import Deliverer, Pace
from papyra_otel.pipeline.delivery.encoding import Encoder
from papyra_otel.pipeline.delivery.shipper import Client
from papyra_otel.pipeline.delivery.target import GRPC, Target
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.otel import Scope
from papyra_otel.pipeline.record import leaves

__all__ = ["Outbox", "new_client", "new_deliverer"]

SHARE = 0.25  # of one core: about 4,000 facts a second, at 60 µs each
_inherited: list[Any] = []  # what a parent had open; a forked child must neither use nor close it


def new_client(target: Target) -> Client:
    """Return what speaks with *target*. Raises ConfigError for certificates that cannot be read."""
    if target.protocol == GRPC:
        from papyra_otel.pipeline.delivery.grpc import GrpcClient  # noqa: PLC0415 - slow to import

        return GrpcClient(target)
    from papyra_otel.pipeline.delivery.http import HttpClient  # noqa: PLC0415 - as above

    return HttpClient(target)


def new_deliverer(
    log: FactLog,
    client: Client,
    target: Target,
    counters: Counters,
    scope: Scope,
    *,
    told: Callable[[str], None],
    outlet: str = OUTLET,
    messages: bool = False,
    payload: bool = False,
    pace: Pace | None = None,
    ticks: Callable[[], float] = time.monotonic,
    wait: Callable[[float], bool] | None = None,
) -> Deliverer:
    """Return what delivers the facts of *log*. Raises NotSupported where a log has no outlet, ConfigError."""
    encoder = Encoder(scope, Resource({**resource_attributes()}), payload=payload)
    return Deliverer(
        log.outlet(outlet),
        client,
        encoder.request,
        counters,
        receiver=target.shown,
        timeout_seconds=target.timeout_seconds,
        wanted=lambda fact: leaves(fact, messages=messages),
        told=told,
        pace=pace,
        ticks=ticks,
        wait=wait,
    )


class Outbox:
    """Delivers the facts of *log*, which it owns, all systems' and processes', while this process runs.

    Several processes may do so with one log: one of them delivers, another takes over when that one ends.
    *exit_seconds* bounds ``stop``. Raises what ``new_deliverer`` and ``new_client`` raise. Methods never raise.
    """

    def __init__(
        self,
        log: FactLog,
        target: Target,
        counters: Counters,
        guard: Guard,
        scope: Scope,
        *,
        told: Callable[[str], None],
        exit_seconds: float,
        messages: bool = False,
        payload: bool = False,
    ) -> None:
        self._log = log
        self._target = target
        self._counters = counters
        self._guard = guard
        self._scope = scope
        self._told = told
        self._exit_seconds = exit_seconds
        self._messages = messages
        self._payload = payload
        self._thread: threading.Thread | None = None
        self._make()

    def _make(self) -> None:
        self._client = new_client(self._target)
        self._deliverer = new_deliverer(
            self._log,
            self._client,
            self._target,
            self._counters,
            self._scope,
            told=self._told,
            messages=self._messages,
            payload=self._payload,
            pace=Pace(share=SHARE),
        )
        self._counters.observe_zero(semconv.DELIVERY_EXPORTED, [("",)])

    def start(self) -> None:
        """Begin to deliver."""
        try:
            self._thread = threading.Thread(
                target=self._run, args=(self._deliverer,), name="papyra-otel-delivery", daemon=True
            )
            self._thread.start()
        except RuntimeError:  # no more threads: what is in the log waits for the next process
            self._thread = None

    def backlog(self) -> Backlog | None:
        """Return what is not delivered; None unless this process is the one that delivers."""
        return self._deliverer.backlog()

    def stop(self) -> None:
        """Deliver what is left, but take no longer than *exit_seconds*, whatever the receiver does."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._deliverer.end(self._exit_seconds)
            thread.join(self._exit_seconds)
            if thread.is_alive():
                self._told(
                    "the receiver did not answer in time: what it does not have yet is in the log, for the next start."
                )

    def close(self) -> None:
        """``stop``, and give up connections and the log."""
        self.stop()
        with self._guard("outbox.close"):
            self._client.close()
            self._log.close()

    def after_fork_in_child(self) -> None:
        """Begin anew, behind the parent: it delivers for as long as it lives."""
        running, self._thread = self._thread is not None, None
        with self._guard("outbox.fork"):
            _inherited.append((self._client, self._deliverer))
            self._deliverer.abandon()
            self._make()
            if running:
                self.start()

    def _run(self, deliverer: Deliverer) -> None:
        try:
            deliverer.run(follow=True)
        except PapyraOtelError as error:
            self._told(f"facts are not delivered: {str(error).rstrip('.')}. The log has them.")
        except Exception:
            self._guard.failed("delivery")
            self._told(
                "facts are not delivered any more: a bug in papyra-otel, see the log. The log has them."
            )
