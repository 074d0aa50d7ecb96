"""What every adapter of an actor runtime promises, as tests: subclass ``RuntimeContract`` and say what it asks for.

    class TestMyRuntime(RuntimeContract):
        def new_adapter(self, recorder, guard):
            return MyAdapter(recorder, guard, "shop")

        def patched(self):
            return [(my_runtime.Actor, "_run"), (my_runtime.Actor, "_handle")]

        def play(self):
            ...  # a small program: make actors, let some fail, stop them; return what an application can see

        def history(self):
            return {"shop.Worker": ["papyra.actor.started", "papyra.message.processed", ...]}

Needs pytest. For failures that show values, call ``pytest.register_assert_rewrite("papyra_otel.testing")``.
"""

# ruff: noqa: D102, S101 - these are tests: their names are the sentences
from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from papyra_otel import semconv as s
from papyra_otel.config import SpanMode
from papyra_otel.errors import LogUnavailable
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.guard import Guard
from papyra_otel.recorder import Recorder
from papyra_otel.runtimes import patches
from papyra_otel.runtimes.adapter import AUDIT_MEMBERS, CAPABILITIES, Adapter
from papyra_otel.testing.capture import CapturingEmitter
from papyra_otel.testing.trouble import TroubledLog, recording_into, sdk_that_raises

__all__ = ["RuntimeContract"]


class _Raising:
    """A recorder of which every verb raises."""

    spans = SpanMode.SAMPLED

    def __getattr__(self, name: str) -> Any:
        def verb(*_: object, **__: object) -> None:
            raise RuntimeError(f"{name} of a broken recorder")

        return verb


class RuntimeContract:
    """The tests, and what a subclass has to say."""

    def new_adapter(self, recorder: Recorder, guard: Guard) -> Adapter:
        """Return a new adapter, not yet installed."""
        raise NotImplementedError

    def patched(self) -> Iterable[tuple[object, str]]:
        """Return what the adapter replaces in the runtime: class or module, and name."""
        raise NotImplementedError

    def play(self) -> object:
        """Run a small program with failures in it; return all that it can see: results, errors, order.

        It must be the same each time, and must have ended when this returns.
        """
        raise NotImplementedError

    def history(self) -> Mapping[str, Sequence[str]]:
        """Return the true history of ``play``: event names in order, by actor type."""
        raise NotImplementedError

    # --- what is told -------------------------------------------------------------------------------

    def test_the_history_is_told_exactly(self) -> None:
        emitter = CapturingEmitter()
        with self._installed(Recorder(emitter, Counters())):
            self.play()
        assert _by_type(emitter) == {name: list(events) for name, events in self.history().items()}

    def test_no_hook_fails(self) -> None:
        counters = Counters()
        with self._installed(Recorder(CapturingEmitter(), counters), Guard(counters)):
            self.play()
        assert counters.read(s.INSTRUMENTATION_ERRORS) == []

    def test_what_cannot_be_told_is_said(self) -> None:
        with self._installed(Recorder(CapturingEmitter(), Counters())) as adapter:
            capabilities = adapter.capabilities()
        unable = [ability for ability in CAPABILITIES if ability not in capabilities.able]
        assert [ability.value for ability in unable if ability not in capabilities.notes] == []
        assert capabilities.unsupported() == tuple(ability.value for ability in unable)

    def test_audits_and_gauges_can_be_had_at_any_time(self) -> None:
        adapter = self.new_adapter(Recorder(CapturingEmitter(), Counters()), Guard(Counters()))
        assert (list(adapter.audits()), list(adapter.gauges())) == ([], [])
        with self._installed(Recorder(CapturingEmitter(), Counters())) as installed:
            self.play()
            for audit in installed.audits():
                assert audit.system
                absent = {
                    ability.value for ability, name in AUDIT_MEMBERS.items() if getattr(audit, name) is None
                }
                assert absent == {ability.value for ability in AUDIT_MEMBERS} & set(audit.unsupported)
            for gauges in installed.gauges():
                assert gauges.system

    # --- what the program sees ----------------------------------------------------------------------

    def test_a_program_cannot_tell_that_it_is_watched(self) -> None:
        bare = self.play()
        with self._installed(Recorder(CapturingEmitter(), Counters())):
            assert self.play() == bare
        assert self.play() == bare

    def test_a_recorder_that_raises_changes_nothing(self) -> None:
        bare = self.play()
        counters = Counters()
        broken: Any = _Raising()
        with self._installed(broken, Guard(counters)):
            assert self.play() == bare
        assert counters.total(s.INSTRUMENTATION_ERRORS) > 0

    # --- a recording in trouble -----------------------------------------------------------------------

    def test_a_log_that_refuses_every_fact_changes_nothing_and_counts_them(self) -> None:
        bare = self.play()
        for error in (
            LogUnavailable("no space left", error_type="ENOSPC"),
            OSError(errno.EIO, "disk"),
            RuntimeError(),
        ):
            with (
                recording_into(TroubledLog(error)) as recorded,
                self._installed(recorded.recorder, recorded.guard),
            ):
                assert self.play() == bare
            assert recorded.log.names == []
            assert recorded.lost() > 0

    def test_a_log_that_blocks_changes_nothing_and_has_every_fact_in_the_end(self) -> None:
        bare = self.play()
        with recording_into(TroubledLog(holds=True), queued=True) as recorded:
            with self._installed(recorded.recorder, recorded.guard):
                assert self.play() == bare
            assert recorded.log.names == []
        assert recorded.log.told == self._all_told()
        assert recorded.lost() == 0

    def test_a_full_ring_changes_nothing_and_every_fact_is_stored_or_counted_as_lost(self) -> None:
        bare = self.play()
        emitter = CapturingEmitter()
        with self._installed(Recorder(emitter, Counters())):
            self.play()
        with (
            recording_into(TroubledLog(holds=True), queued=True, capacity=2) as recorded,
            self._installed(recorded.recorder, recorded.guard),
        ):
            assert self.play() == bare
        assert recorded.lost() > 0
        assert len(recorded.log.names) + recorded.lost() == len(emitter.events)

    def test_an_sdk_that_raises_changes_nothing_and_the_log_has_every_fact(self) -> None:
        bare = self.play()
        with (
            recording_into(TroubledLog()) as recorded,
            sdk_that_raises(),
            self._installed(recorded.recorder, recorded.guard),
        ):
            assert self.play() == bare
        assert recorded.log.told == self._all_told()
        assert recorded.counters.total(s.INSTRUMENTATION_ERRORS) > 0

    # --- in and out ---------------------------------------------------------------------------------

    def test_what_is_patched_is_put_back(self) -> None:
        before = self._found()
        with self._installed(Recorder(CapturingEmitter(), Counters())):
            assert [name for name, found in self._found().items() if found is before[name]] == []
        assert [name for name, found in self._found().items() if found is not before[name]] == []

    def test_installing_twice_is_once(self) -> None:
        emitter = CapturingEmitter()
        with self._installed(Recorder(emitter, Counters())) as adapter:
            once = self._found()
            adapter.install()
            assert [name for name, found in self._found().items() if found is not once[name]] == []
            self.play()
        assert _by_type(emitter) == {name: list(events) for name, events in self.history().items()}

    def test_nothing_is_told_after_it_was_taken_out(self) -> None:
        emitter = CapturingEmitter()
        with self._installed(Recorder(emitter, Counters())):
            pass
        emitter.events.clear()
        self.play()
        assert emitter.events == []

    def test_it_can_be_put_in_again(self) -> None:
        emitter = CapturingEmitter()
        adapter = self.new_adapter(Recorder(emitter, Counters()), Guard(Counters()))
        for _ in range(2):
            adapter.install()
            adapter.uninstall()
        adapter.install()
        try:
            self.play()
        finally:
            adapter.uninstall()
        assert _by_type(emitter) == {name: list(events) for name, events in self.history().items()}

    def test_a_name_that_is_gone_costs_what_needs_it_and_one_warning(self) -> None:
        bare = self.play()
        for owner, name in self.patched():
            said = _Said()
            logger = logging.getLogger("papyra_otel")
            logger.addHandler(said)
            try:
                with (
                    _without(owner, name),
                    self._installed(Recorder(CapturingEmitter(), Counters())) as adapter,
                ):
                    able = adapter.capabilities().able
                    assert self.play() == bare
            finally:
                logger.removeHandler(said)
            assert len(able) < len(self._able()), f"without {name} it claims to tell as much as ever"
            assert [text for text in said.texts if name in text] == said.texts[:1] != []

    # --- tools --------------------------------------------------------------------------------------

    @contextmanager
    def _installed(self, recorder: Recorder, guard: Guard | None = None) -> Generator[Adapter]:
        adapter = self.new_adapter(recorder, guard or Guard(Counters()))
        adapter.install()
        try:
            yield adapter
        finally:
            adapter.uninstall()

    def _all_told(self) -> Counter[tuple[str, str]]:
        return Counter((actor_type, name) for actor_type, names in self.history().items() for name in names)

    def _able(self) -> frozenset[object]:
        with self._installed(Recorder(CapturingEmitter(), Counters())) as adapter:
            return frozenset(adapter.capabilities().able)

    def _found(self) -> dict[str, object]:
        return {f"{owner!r}.{name}": vars(owner)[name] for owner, name in self.patched()}


class _Said(logging.Handler):
    """Keeps what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def _without(owner: object, name: str) -> Generator[None]:
    """Let an adapter believe that *owner* has no *name*, while the runtime goes on having it."""
    found = patches.own

    def own(asked: Any, asked_name: str) -> Any:
        return None if asked is owner and asked_name == name else found(asked, asked_name)

    with mock.patch.object(patches, "own", own):
        yield


def _by_type(emitter: CapturingEmitter) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for event in emitter.events:
        about: Mapping[str, Any] = event["attributes"] or {}
        if s.ACTOR_TYPE in about:
            told.setdefault(about[s.ACTOR_TYPE], []).append(event["event_name"])
    return told
