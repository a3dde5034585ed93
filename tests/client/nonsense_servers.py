"""Servers that break the promises a client relies on, one small function each."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import Union

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

POLL_SECONDS = 0.1


Answer = Union[bytes, None, Callable[[], bytes]]


@contextmanager
def http_server(answer: Answer, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[str]:
    """Answer every HTTP request with these raw bytes, or what the function gives, and hang up; with None, never."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(POLL_SECONDS)
        thread = threading.Thread(target=_serve_http, args=(listener, answer, tls, stop))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def _serve_http(listener: socket.socket, answer: Answer, tls: ssl.SSLContext | None, stop: threading.Event) -> None:
    unanswered = []
    while not stop.is_set():
        try:
            connection, _ = listener.accept()
        except socket.timeout:
            continue
        connection.settimeout(5)
        if answer is None:
            unanswered.append(connection)
            continue
        with connection, suppress(OSError):  # a client that refuses the certificate hangs up first
            stream = tls.wrap_socket(connection, server_side=True) if tls else connection
            _answer(stream, answer() if callable(answer) else answer)
    for connection in unanswered:
        connection.close()


def _answer(stream: socket.socket, answer: bytes) -> None:
    with stream:
        received = stream.recv(1 << 16)
        while received and not _complete(received):  # closing with unread bytes would reset the connection
            received += stream.recv(1 << 16)
        stream.sendall(answer)


def _complete(request: bytes) -> bool:
    head, separator, body = request.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return bool(separator) and len(body) >= int(lengths[0].split(b":")[1] if lengths else 0)


@contextmanager
def relay(url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Stand before a server, until the function is called: its connections then fall silent, as a lost host's do.

    Connections made later are passed on again.
    """
    host, port = url.rpartition("/")[2].split(":")
    connections: list[socket.socket] = []
    silent = [threading.Event()]

    def carry(source: socket.socket, sink: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not lost.is_set():
                    sink.sendall(data)
        if not lost.is_set():
            sink.close()

    def serve() -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                near = listener.accept()[0]
                far = socket.create_connection((host, int(port)))
                connections.extend([near, far])
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=(*ends, silent[-1]), daemon=True).start()

    def fall_silent() -> None:
        silent[-1].set()
        silent.append(threading.Event())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"{url.partition(':')[0]}://127.0.0.1:{listener.getsockname()[1]}", fall_silent
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()


Behaviour = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], service_pb2.ModelInferResponse]


@contextmanager
def grpc_server(behave: Behaviour, port: int = 0, tls: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Answer every inference as ``behave(request, context)`` does."""

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelInfer(self, request, context):
            return behave(request, context)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    address = f"127.0.0.1:{port}"
    port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    server.start()
    try:
        yield f"grpc{'s' if tls else ''}://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def one_caption(request, context):
    """Answer as the contract says."""
    del request, context
    response = service_pb2.ModelInferResponse()
    for name, datatype, raw in (("caption", "BYTES", b"\x05\0\0\0a cat"), ("score", "FP32", b"\0\0\0\xbf")):
        tensor = response.outputs.add(name=name, datatype=datatype)
        tensor.shape.extend([1, 1])
        response.raw_output_contents.append(raw)
    return response


class InTurn:
    """Behave as the first at the first request, as the second at the second, and then always as the last."""

    def __init__(self, *behaviours):
        self.behaviours = behaviours
        self.requests = 0

    def __call__(self, *arguments):
        behave = self.behaviours[min(self.requests, len(self.behaviours) - 1)]
        self.requests += 1
        return behave(*arguments) if callable(behave) else behave


def refuse(status, text):
    """Answer gRPC with an error."""
    return lambda request, context: context.abort(status, text)


def http_answer(status, body, headers=""):
    """Write an HTTP answer out."""
    return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


JSON_CAPTION = (
    '{"outputs": [{"name": "caption", "datatype": "BYTES", "shape": [1, 1], "data": ["a cat"]},'
    ' {"name": "score", "datatype": "FP32", "shape": [1, 1], "data": [-0.5]}]}'
)
