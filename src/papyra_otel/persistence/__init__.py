"""papyra's own ``PersistenceBackend`` on any of our logs: see ``backend``. Importing this needs papyra."""

from papyra_otel.persistence.backend import PapyraPersistence

__all__ = ["PapyraPersistence"]
