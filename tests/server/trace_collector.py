"""An OpenTelemetry collector for tests: takes OTLP over HTTP, as JSON (Triton) and as protobuf (the Python models)."""

import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """What a test asks of a span; ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict
    service: str


class TraceCollector:
    """Listens on a free port of loopback from entering the context until leaving it."""

    def __init__(self):
        self.spans = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.spans += read(body, self.headers["Content-Type"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception):
        self._server.shutdown()
        self._server.server_close()


def read(body, content_type):
    """The spans of one export."""
    return of_json(json.loads(body)) if "json" in content_type else of_protobuf(body)


def of_json(request):
    return [
        Span(
            span["name"],
            span["traceId"].lower(),
            span["spanId"].lower(),
            span.get("parentSpanId", "").lower(),
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
            {pair["key"]: next(iter(pair["value"].values())) for pair in span.get("attributes", [])},
            service([(pair["key"], pair["value"].get("stringValue")) for pair in resource["resource"]["attributes"]]),
        )
        for resource in request["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def of_protobuf(body):
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes},
            service([(pair.key, pair.value.string_value) for pair in resource.resource.attributes]),
        )
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def service(pairs):
    return dict(pairs).get("service.name")
