"""The trace context of a message: in one option of it on the way through the broker, and nowhere else.

It is put in when a message is about to be enqueued, taken out again once it was, and taken out before it is handled:
neither senders nor handlers, results or callbacks see it, only whoever looks into the broker. A worker that is not
instrumented finds an option it does not know, which dramatiq ignores. Options named ``traceparent`` and the like are
the application's own: they are read where ours is missing, and never touched.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

from opentelemetry import context as otel

from papyra_otel.runtimes.tracing import Context, context_from, inject, sender_context

__all__ = ["put_in", "sent_in", "take_out", "within"]

OPTION: Final = "papyra.trace"


def put_in(message: Any) -> None:
    """Add what the application's propagators say of the current trace, if there is one, to *message*."""
    context = sender_context()
    if context is not None:
        carrier: dict[str, str] = {}
        inject(carrier, context)
        message.options[OPTION] = carrier


def take_out(message: Any) -> None:
    """Remove what ``put_in`` added."""
    message.options.pop(OPTION, None)


def sent_in(message: Any) -> Context | None:
    """Return the context that *message* was sent in, None outside of any trace."""
    from opentelemetry import propagate  # noqa: PLC0415 - looks for propagators when it is imported

    carrier = message.options.get(OPTION)
    told: dict[object, object] = (
        cast("dict[object, object]", carrier) if isinstance(carrier, dict) else message.options
    )
    names = propagate.get_global_textmap().fields
    return context_from({name: text for name in names if isinstance(text := told.get(name), str)})


@contextmanager
def within(context: Context | None) -> Generator[None]:
    """Run the block in *context*."""
    token = otel.attach(Context() if context is None else context)
    try:
        yield
    finally:
        otel.detach(token)
