"""Real OTLP receivers over both protocols, which also do what a real collector cannot be made to do."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

RETRY_LATER = {429: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE}
CODES = {
    **RETRY_LATER,
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    500: grpc.StatusCode.INTERNAL,
}


@dataclass
class Answer:
    """What to do with a request. *status* is that of HTTP; over gRPC it is what corresponds to it."""

    status: int = 200
    after_seconds: int | None = None
    rejected: int = 0
    message: str = ""
    hang: bool = False
    reset: bool = False
    taken: bool | None = None

    @property
    def takes(self) -> bool:
        return self.status == 200 and not self.hang and not self.reset if self.taken is None else self.taken


Behaviour = Callable[[ExportLogsServiceRequest], Answer]


def uids_in(request: ExportLogsServiceRequest) -> list[str]:
    return [value_of(record, "log.record.uid") for record in records_in(request)]


def records_in(request: ExportLogsServiceRequest) -> list:
    return [
        record
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def value_of(record, name: str):
    for pair in record.attributes:
        if pair.key == name:
            return getattr(pair.value, pair.value.WhichOneof("value"))
    return None


@dataclass
class Receiver:
    """Takes what is sent, and remembers it; *behave* decides otherwise."""

    behave: Behaviour = field(default=lambda request: Answer())
    requests: list[ExportLogsServiceRequest] = field(default_factory=list)
    taken: list[ExportLogsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    protocol = ""
    port = 0

    def decided(self, request: ExportLogsServiceRequest, headers: dict[str, str]) -> Answer:
        self.requests.append(request)
        self.headers.append(headers)
        answer = self.behave(request)
        if answer.takes:
            self.taken.append(request)
        self.asked.set()
        if answer.hang:
            self.released.wait(60)
        return answer

    @property
    def uids(self) -> list[str]:
        return [uid for request in list(self.taken) for uid in uids_in(request)]

    def environ(self, **more: str) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            **more,
        }

    def close(self) -> None:
        raise NotImplementedError


class HttpReceiver(Receiver):
    protocol = "http/protobuf"

    def __init__(self, port: int = 0, tls=None) -> None:
        super().__init__()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request, client_address):
        """Clients come and go."""


def _handler(receiver: HttpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            encoding = self.headers.get("content-encoding")
            body = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[encoding](body)
            headers = {name.lower(): value for name, value in self.headers.items()} | {"path": self.path}
            answer = receiver.decided(ExportLogsServiceRequest.FromString(body), headers)
            if answer.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            content = (
                _response(answer).SerializeToString()
                if answer.status == 200
                else Status(message=answer.message).SerializeToString()
            )
            self.send_response(answer.status)
            if answer.after_seconds is not None:
                self.send_header("Retry-After", str(answer.after_seconds))
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            """Quiet."""

    return Handler


class GrpcReceiver(Receiver):
    protocol = "grpc"

    def __init__(self, port: int = 0, credentials=None) -> None:
        super().__init__()
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Servicer(self), self._server)
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._server.start()

    def close(self) -> None:
        self.released.set()
        self._server.stop(None).wait()


class _Servicer(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, receiver: GrpcReceiver) -> None:
        self._receiver = receiver

    def Export(self, request, context):  # noqa: N802 - gRPC calls it so
        headers = {str(name): str(value) for name, value in context.invocation_metadata()}
        answer = self._receiver.decided(request, headers)
        if answer.reset:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
        if answer.status != 200:
            if answer.after_seconds is not None:
                context.set_trailing_metadata((("grpc-status-details-bin", _details(answer)),))
            context.abort(CODES[answer.status], answer.message)
        return _response(answer)


def _details(answer: Answer) -> bytes:
    packed = PackedAny()
    packed.Pack(RetryInfo(retry_delay=Duration(seconds=answer.after_seconds)))
    return Status(message=answer.message, details=[packed]).SerializeToString()


def _response(answer: Answer) -> ExportLogsServiceResponse:
    response = ExportLogsServiceResponse()
    if answer.rejected or answer.message:
        response.partial_success.rejected_log_records = answer.rejected
        response.partial_success.error_message = answer.message
    return response


RECEIVERS = {"http": HttpReceiver, "grpc": GrpcReceiver}


def in_turn(answers: Iterable[Answer], then: Answer | None = None) -> Behaviour:
    """Give *answers* one after the other, then *then* for ever."""
    waiting = iter(answers)
    return lambda request: next(waiting, then or Answer())
