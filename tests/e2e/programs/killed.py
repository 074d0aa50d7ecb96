"""Forks workers that emit at full speed, and kills each at a random moment.

Arguments: the folder for our log, the file for the SDK's exporter, rounds, seed. Prints, per round, how many
emits had returned when the worker died: ours and the SDK's.
"""

# ruff: noqa: T201 - what it prints is what the tests compare

import mmap
import os
import random
import signal
import sys
import time

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult

import papyra_otel

root, other, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
page = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the workers, survives them
counts = memoryview(page).cast(
    "Q"
)  # ours, theirs; a number is stored whole, which struct.pack_into does not do
recording = papyra_otel.enable(f"file:{root}", runtimes=())
ours = recording.store


class FileExporter(LogRecordExporter):
    """As durable as a file exporter can be: one write per batch."""

    def __init__(self):
        self.fd = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def export(self, batch):
        lines = [f"{r.log_record.attributes['round']} {r.log_record.attributes['n']}\n" for r in batch]
        os.write(self.fd, "".join(lines).encode())
        return LogRecordExportResult.SUCCESS

    def shutdown(self):
        os.close(self.fd)

    def force_flush(self, timeout_millis=0):
        return True


def work(round_):
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(FileExporter(), schedule_delay_millis=5))
    theirs = provider.get_logger("theirs")
    n = 0
    while True:
        attributes = {"round": round_, "n": n}
        ours.emit(event_name="tick", attributes=attributes)
        counts[0] = n + 1
        theirs.emit(LogRecord(event_name="tick", attributes=attributes))
        n += 1
        counts[1] = n


def main():
    for round_ in range(rounds):
        ours.emit(event_name="before", attributes={"round": round_})
        counts[0] = counts[1] = 0
        enough, later = dice.randrange(1, 800), dice.random() * 0.002
        worker = os.fork()
        if worker == 0:
            try:
                work(round_)
            finally:
                os._exit(9)
        while counts[0] < enough and os.waitpid(worker, os.WNOHANG) == (0, 0):
            os.sched_yield()
        until = time.perf_counter() + later
        while time.perf_counter() < until:
            pass
        os.kill(worker, signal.SIGKILL)
        _, status = os.waitpid(worker, 0)
        print(round_, counts[0], counts[1], os.waitstatus_to_exitcode(status))


main()
