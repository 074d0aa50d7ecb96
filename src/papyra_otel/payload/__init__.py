"""Any object to bounded, redacted JSON-safe data; any text or URL to the same without its secrets. Never raises.

What is read belongs to the application, so nothing here trusts it. Built-in containers and their subclasses
are read through the base type's own methods, records (dataclasses, NamedTuples, attrs, msgspec, pydantic)
through their slots and instance dicts; iterators are never advanced and properties never called. The only code
of an object that runs is its ``repr`` (``str`` for an exception, ``tzinfo`` for a time): guarded, counted and
given up after 50 ms in total. Work and output are bounded together: a walk stops at its limits.

Only what is not an ``Exception`` (KeyboardInterrupt, SystemExit) passes. Everything here is safe in any thread.
"""

from papyra_otel.payload.failures import describe_exception
from papyra_otel.payload.fitting import payload_text
from papyra_otel.payload.reading import jsonable
from papyra_otel.payload.redaction import SECRET_KEYS, is_secret_key, redact_text, redact_url

__all__ = [
    "SECRET_KEYS",
    "describe_exception",
    "is_secret_key",
    "jsonable",
    "payload_text",
    "redact_text",
    "redact_url",
]
