"""The same engines as one Python function behind PyTriton, whose dynamic batcher fills it; a batch runs to its end.

``python -m benchmarks.ways.pytriton_function ARTIFACT`` serves until its standard input ends.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.grpc as protocol
from ofa_serving.launcher.ports import claim_ports
from ofa_serving.launcher.settings import Ports

from ..contenders import Contender
from ..worker import Worker

NAME = "PyTriton, the same engines in one function"
MOST = 16
MOST_SECONDS = 120
"""For an answer."""

LOCK = b"""
import threading
from multiprocessing import resource_tracker

if not hasattr(threading.RLock(), "_recursion_count"):

    class CountedLock:
        def __init__(self):
            self._lock, self._count = threading.RLock(), 0

        def __enter__(self):
            self._lock.acquire()
            self._count += 1

        def __exit__(self, *_):
            self._count -= 1
            self._lock.release()

        def _recursion_count(self):
            return self._count

    resource_tracker._resource_tracker._lock = CountedLock()
"""
"""PyTriton's proxy runs in the Python 3.11.2 that its wheel carries, on the standard library of the Python that is
installed; from 3.11.5 on, that library asks its locks for what only a newer interpreter has."""


class PyTriton(Contender):
    """The server in a process of its own, asked over gRPC."""

    precision = "fp32"

    def __init__(self, artifact: Path, concurrency: int) -> None:
        self.name, self.concurrency = NAME, concurrency
        self._artifact = artifact

    def __enter__(self) -> Self:
        ports = claim_ports("127.0.0.1", Ports(0, 0, 0))
        command = [sys.executable, "-m", __name__, str(self._artifact)]
        command += map(str, (ports.http, ports.grpc, ports.metrics))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where Triton finds this Python
        self._worker = Worker(command, {"PATH": path})
        self._worker.read("serving")
        self._client = protocol.InferenceServerClient(f"127.0.0.1:{ports.grpc}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._worker.close()

    def caption(self, image: Path) -> str:
        """See :meth:`Contender.caption`."""
        tensor = protocol.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[image.read_bytes()]], np.object_))
        return self._client.infer("caption", [tensor], client_timeout=MOST_SECONDS).as_numpy("caption")[0, 0].decode()


def serve(artifact: Path, http: int, grpc: int, metrics: int) -> None:
    """Serves an artifact's engines on these ports."""
    from ofa_serving.local import LocalCaptioner  # noqa: PLC0415  (the contender itself needs none of this)
    from pytriton.decorators import batch  # noqa: PLC0415
    from pytriton.model_config import ModelConfig, Tensor  # noqa: PLC0415
    from pytriton.models.model import Model  # noqa: PLC0415
    from pytriton.triton import Triton, TritonConfig  # noqa: PLC0415

    files_of = Model.get_proxy_model_files

    def patched(model: Model) -> dict[str, bytes]:
        return {name: LOCK + text if name.endswith("/model.py") else text for name, text in files_of(model).items()}

    Model.get_proxy_model_files = patched
    captioner = LocalCaptioner(artifact / "model_repository", artifact.name)

    @batch
    def caption(image: np.ndarray) -> dict[str, Any]:
        best = captioner.captions([file for (file,) in image])
        return {"caption": np.array([[text.encode()] for text, *_ in best], np.object_)}

    config = TritonConfig(
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        metrics_address="127.0.0.1",
    )
    one = {"dtype": bytes, "shape": (1,)}
    with tempfile.TemporaryDirectory() as work, Triton(config=config, workspace=f"{work}/pytriton") as server:
        server.bind(
            "caption",
            caption,
            [Tensor(name="image", **one)],
            [Tensor(name="caption", **one)],
            config=ModelConfig(max_batch_size=MOST),
        )
        server.run()
        sys.stdout.write("\nserving\n")  # PyTriton passes on what Triton says there, whole lines or not
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
