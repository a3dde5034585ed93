"""The model in PyTorch behind Python's own HTTP server, one request at a time: what a first version looks like.

``python -m benchmarks.ways.torch_http CHECKPOINT`` serves until its standard input ends.
"""

from __future__ import annotations

import http.client
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from ..contenders import Contender
from ..worker import Worker

NAME = "PyTorch behind http.server"


class TorchHttp(Contender):
    """The server in a process of its own, and a connection a thread."""

    precision = "fp32"

    def __init__(self, checkpoint: Path, concurrency: int) -> None:
        self.name, self.concurrency = NAME, concurrency
        self._command = [sys.executable, "-m", __name__, str(checkpoint)]
        self._local = threading.local()

    def __enter__(self) -> Self:
        self._worker = Worker(self._command)
        self._port = int(self._worker.read("port ").split()[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.close()

    def caption(self, image: Path) -> str:
        """See :meth:`Contender.caption`."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        self._local.connection.request("POST", "/", image.read_bytes())
        return self._local.connection.getresponse().read().decode()


def serve(checkpoint: str) -> None:
    """Serves a checkpoint on a free port, which is written to standard output as ``port 1234``."""
    import numpy as np  # noqa: PLC0415  (the contender itself needs none of this)
    import torch  # noqa: PLC0415
    from ofa_build.checkpoint import load_checkpoint  # noqa: PLC0415
    from ofa_build.evaluation.captioners import TorchCaptioner  # noqa: PLC0415
    from ofa_serving.images import load_pixels  # noqa: PLC0415

    captioner = TorchCaptioner.load(load_checkpoint(checkpoint), torch.device("cpu"))
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            image = self.rfile.read(int(self.headers["Content-Length"]))
            pixels = load_pixels(image, captioner.settings.patch_image_size)
            with one_at_a_time, torch.inference_mode():
                (caption,) = captioner.captions(np.stack([pixels]))
            body = caption.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(f"port {server.server_port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    serve(sys.argv[1])
