"""Live and from the log, the same fact is the same OTLP record: docs/decisions/0050."""

from __future__ import annotations

import math

import pytest
from opentelemetry import _logs
from opentelemetry._logs import _internal as api
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.util._once import Once

import papyra_otel
from delivery.conftest import TIME
from papyra_otel.log.contract import LogOptions
from papyra_otel.log.outlet import Item
from papyra_otel.pipeline.counters import Counters
from papyra_otel.pipeline.delivery.encoding import Encoder
from papyra_otel.pipeline.guard import Guard
from papyra_otel.pipeline.logger import FactLoggerProvider
from papyra_otel.pipeline.otel import Scope, context_of
from papyra_otel.pipeline.resource import resource_now
from papyra_otel.pipeline.writer import FactWriter

ATTRIBUTES = [
    {},
    {"n": 1, "text": "grüße", "yes": True, "share": 0.1, "negative": -(2**62)},
    {"texts": ["a", "b"], "numbers": [1, 2, 3], "none": [], "flags": [True, False]},
    {"map": {"a": 1, "b": {"c": "d"}}},  # lists of mixed types the SDK 1.39 drops
    {"papyra.message.payload": "secret", "papyra.message.type": "Order"},
    {"not a number": math.inf, "odd": object(), "surrogate": "\ud800", "long": "x" * 10_000},
    {"nothing": None},
]
SCOPE = Scope("papyra_otel", "1.2", "https://opentelemetry.io/schemas/1.37.0")


@pytest.mark.parametrize("payload", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_what_is_forwarded_live_is_what_is_delivered_from_the_log(tmp_path, monkeypatch, payload):
    monkeypatch.setattr(api, "_LOGGER_PROVIDER", None)
    monkeypatch.setattr(api, "_LOGGER_PROVIDER_SET_ONCE", Once())
    resource = Resource({"service.name": "shop", "service.instance.id": "7", "process.pid": 3, "tags": ["a"]})
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    exporter = InMemoryLogRecordExporter()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    _logs.set_logger_provider(provider)
    url = f"file:{tmp_path}/facts"
    counters = Counters()
    with papyra_otel.log.open_log(url, options=LogOptions(fsync="never", resource=resource_now)) as log:
        writer = FactWriter(log, counters, background=False)
        logger = FactLoggerProvider(
            writer, counters, Guard(counters), system="orders", forward_messages=True, forward_payload=payload
        ).get_logger(*SCOPE)
        for n, attributes in enumerate(ATTRIBUTES):
            logger.emit(
                timestamp=TIME + n,
                severity_text="WARN",
                attributes={
                    **attributes,
                    "papyra.system.id": "orders",
                    "papyra.actor.address": f"orders/{n}",
                },
                context=context_of(n + 1, n + 1) if n % 2 else None,
                event_name="papyra.message.processed",
            )
        writer.close()
    live = normal(encode_logs(exporter.get_finished_logs()))
    with papyra_otel.open_log(url) as log:
        outlet = log.outlet()
        outlet.acquire()
        items = outlet.next_batch(lambda fact: True, 100, 1 << 20).items
        outlet.release()
        encoder = Encoder(SCOPE, Resource({"service.name": "who ships"}), payload=payload)
        delivered = normal(ExportLogsServiceRequest.FromString(encoder.request(items)))
    assert len(ATTRIBUTES) == len(items)
    assert delivered == live


def normal(request: ExportLogsServiceRequest) -> str:
    """Return the request as text, without what cannot be the same: when it was observed, whether it was sampled."""
    for resource in request.resource_logs:
        resource.resource.attributes.sort(key=lambda pair: pair.key)
        for scope in resource.scope_logs:
            for record in scope.log_records:
                record.observed_time_unix_nano = 0
                record.flags = 0
                record.attributes.sort(key=lambda pair: pair.key)
    return str(request)


def test_a_fact_of_which_the_log_does_not_tell_the_resource_has_that_of_the_deliverer(url):
    from delivery.conftest import record

    record(url, range(1), resource=None)
    with papyra_otel.open_log(url) as log:
        outlet = log.outlet()
        outlet.acquire()
        items = outlet.next_batch(lambda fact: True, 10, 1000).items
        request = ExportLogsServiceRequest.FromString(
            Encoder(SCOPE, Resource({"service.name": "shipper"})).request(items)
        )
        outlet.release()
    assert "shipper" in str(request.resource_logs[0].resource)
    assert isinstance(items[0], Item)
