"""OTLP over gRPC, one request at a time. Nothing is tried again here: what the answer means is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from opentelemetry.instrumentation.utils import suppress_instrumentation

from papyra_otel.errors import ConfigError
from papyra_otel.pipeline.delivery.answers import accepted, retry_after_seconds
from papyra_otel.pipeline.delivery.outcome import Later, Outcome, Refused, one_line
from papyra_otel.pipeline.delivery.target import Target

__all__ = ["GrpcClient"]

_METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_BAD_DATA = frozenset({"INVALID_ARGUMENT"})
_SUSPECT = frozenset({"INTERNAL", "UNKNOWN"})
_TOO_LARGE = (
    "larger than max"  # what a gRPC server says with RESOURCE_EXHAUSTED, which means overload otherwise
)
_OPTIONS = (
    ("grpc.primary_user_agent", "papyra-otel"),
    ("grpc.enable_retries", 0),  # or a request is sent again without being told
    ("grpc.use_local_subchannel_pool", 1),
    # how soon a connection is tried again; the pauses between requests are longer where it does not help
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcClient:
    """A receiver that is spoken to over gRPC, by ``grpcio`` as the SDK's exporter does. For one thread.

    Raises ConfigError for certificates that cannot be read. The channel is made with the first request.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._metadata = tuple((name.lower(), value) for name, value in target.headers.items())
        self._credentials = None if target.insecure else _credentials(target)
        self._channel: grpc.Channel | None = None

    def send(self, request: bytes, timeout_seconds: float) -> Outcome:
        """Send a serialized request; return what the receiver made of it. Takes about *timeout_seconds* at most."""
        try:
            with suppress_instrumentation():
                channel: Any = self._connected()  # typed for messages; these are bytes both ways
                call = channel.unary_unary(_METHOD)
                response: bytes = call(request, timeout=timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            return _failed(error)
        except ValueError as error:  # the channel was closed meanwhile, or a header is not one
            return Later(error_type="connection", message=one_line(str(error)))
        return accepted(response)

    def close(self) -> None:
        """Give up the connection; a request under way in another thread ends now."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _connected(self) -> grpc.Channel:
        if self._channel is None:
            compression = (
                grpc.Compression.Gzip
                if self._target.compression == "gzip"
                else grpc.Compression.NoCompression
            )
            if self._credentials is None:
                self._channel = grpc.insecure_channel(self._target.endpoint, _OPTIONS, compression)
            else:
                self._channel = grpc.secure_channel(
                    self._target.endpoint, self._credentials, _OPTIONS, compression
                )
        return self._channel


def _credentials(target: Target) -> grpc.ChannelCredentials:
    try:
        return grpc.ssl_channel_credentials(
            *(
                None if path is None else Path(path).read_bytes()
                for path in (target.ca, target.key, target.certificate)
            )
        )
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; see OTEL_EXPORTER_OTLP_CERTIFICATE") from None


def _failed(error: Any) -> Outcome:
    """Return what an error means: a ``grpc.RpcError`` that is, in truth, also a ``grpc.Call``."""
    code: str = error.code().name
    details: str = error.details() or ""
    message = one_line(f"gRPC {code} {details}")
    if code in _BAD_DATA or (code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details):
        return Refused(error_type=code, message=message)
    after = retry_after_seconds(error.trailing_metadata() or ())
    return Later(error_type=code, message=message, after_seconds=after, suspect=code in _SUSPECT)
