"""What is inside a receiver's answers: protobuf messages that may be missing, cut or somebody else's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from papyra_otel.pipeline.delivery.outcome import Accepted, one_line

__all__ = ["accepted", "retry_after_seconds", "status_message"]

_NANOS = 1_000_000_000
_new_status: Any = status_pb2.Status
_new_retry_info: Any = error_details_pb2.RetryInfo


def accepted(response: bytes) -> Accepted:
    """Return what an ExportLogsServiceResponse says. One that cannot be read says nothing: the status was good."""
    try:
        partial = ExportLogsServiceResponse.FromString(response).partial_success
    except DecodeError:
        return Accepted()
    return Accepted(rejected=max(partial.rejected_log_records, 0), message=one_line(partial.error_message))


def status_message(body: bytes) -> str:
    """Return the text of a google.rpc.Status; nothing if it is none."""
    try:
        return str(_new_status.FromString(body).message)
    except DecodeError:
        return ""


def retry_after_seconds(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return how long a gRPC receiver asks to be left alone, from an answer's trailing *metadata*."""
    for name, value in metadata:
        if not isinstance(value, bytes):
            continue
        try:
            if name == "grpc-status-details-bin":
                for detail in _new_status.FromString(value).details:
                    info = _new_retry_info()
                    if detail.Unpack(info):
                        return _seconds(info)
            elif name == "google.rpc.retryinfo-bin":
                return _seconds(_new_retry_info.FromString(value))
        except DecodeError:
            continue
    return None


def _seconds(info: Any) -> float:
    return max(float(info.retry_delay.seconds + info.retry_delay.nanos / _NANOS), 0.0)
