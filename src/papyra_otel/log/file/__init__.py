"""The file log: one folder per system and kind, segments that only their own writer ever appends to.

``layout`` names things, ``fs`` is every system call, ``segment`` writes one file, ``reader`` reads one
writer's files, ``writing`` joins what is written, ``filelog`` the whole.
docs/decisions/0004 says why a segment has one writer.
"""

from papyra_otel.log.file.filelog import FileLog, open_file_log

__all__ = ["FileLog", "open_file_log"]
