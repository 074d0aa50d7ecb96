"""From an emitted OTel event to a durable fact, a forwarded record and a count.

``logger`` implements the OTel Logs API, ``writer`` stands between it and a log that may be away,
``forward`` hands the same record to the application's own provider, ``counters`` are plain integers
and ``metrics`` lets the SDK read them. Import the modules; this package exports nothing.
"""
