"""One thin adapter per actor runtime: it turns the runtime's own happenings into the recorder's verbs.

An adapter knows its runtime and the recorder, nothing else: no storage, no OpenTelemetry, no other
adapter. It is installed before the first actor exists and can be taken out again. ``adapter`` is the
contract, ``patches`` and ``pipeline.guard`` are its two tools.
"""
