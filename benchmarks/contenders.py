"""What is compared: this project's server with some engine, and ModelScope's pipeline."""

from __future__ import annotations

import contextlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from ofa_build.repository import Serving
from ofa_client import Captioner

from loadtest.servers import QUIET, served

from .builds import built
from .worker import Worker

PEER = Path(__file__).with_name("modelscope_worker.py")


class Contender(ABC):
    """Something that captions image files."""

    name: str
    concurrency: int
    """Most requests in flight when throughput is measured."""
    precision: str
    versions: Mapping[str, str] = {}
    """Of what it runs on, where that is not the benchmark's own environment."""

    @abstractmethod
    def caption(self, image: Path) -> str:
        """One caption."""

    def latency(self, images: list[Path]) -> list[float]:
        """Seconds of each image, one after the other."""
        seconds = []
        for image in images:
            started = time.perf_counter()
            self.caption(image)
            seconds.append(time.perf_counter() - started)
        return seconds

    def throughput(self, images: list[Path]) -> float:
        """Captions a second over all images, ``concurrency`` of them in flight."""
        started = time.perf_counter()
        with ThreadPoolExecutor(self.concurrency) as pool:
            list(pool.map(self.caption, images))
        return len(images) / (time.perf_counter() - started)

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Served(Contender):
    """A built checkpoint on the real server, asked by the real client: JPEG bytes in, caption out."""

    def __init__(self, name: str, model: str, artifacts: Path, concurrency: int, precision: str = "fp32") -> None:
        self.name, self.model, self.concurrency, self.precision = name, model, concurrency, precision
        self._artifacts = artifacts

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.served = stack.enter_context(served(self.model, self._artifacts, QUIET))
            self._captioner = stack.enter_context(Captioner(self.served.grpc, model=self.model, timeout=120))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def caption(self, image: Path) -> str:
        """See :meth:`Contender.caption`."""
        return self._captioner.caption(image).text

    def stages(self, image: Path) -> tuple[float, list[float]]:
        """One request's seconds and its ``timing_ms``."""
        started = time.perf_counter()
        caption = self._captioner.caption(image, details=True)
        return time.perf_counter() - started, list(caption.timing_ms.values())

    def resident_bytes(self) -> int:
        """Proportional memory of every process of the server, its launcher among them."""
        launcher = psutil.Process(self.served.pid)
        return sum(process.memory_full_info().pss for process in (launcher, *launcher.children(recursive=True)))


class Server(Served):
    """One with some engine."""

    def __init__(
        self,
        checkpoint: Path,
        engine: str,
        precision: str,
        work: Path,
        concurrency: int,
        device: str = "cpu",
        images: Sequence[Path] = (),
    ) -> None:
        place = "" if device == "cpu" else f"{device}_"
        model, artifacts = f"bench_{place}{engine}_{precision}", work / "artifacts"
        super().__init__(f"{engine} {precision}", model, artifacts, concurrency, precision)
        self.repository = artifacts / model / "model_repository"
        self._checkpoint, self._serving = checkpoint, (device, engine, precision)
        self._images = images if precision == "int8" else ()

    def __enter__(self) -> Self:
        """Builds it first, if it is not built: what cannot be built is left out of a run as what does not start."""
        pictures = [image.read_bytes() for image in self._images]
        built(self.model, self._artifacts, self._checkpoint, Serving.on(*self._serving), pictures)
        return super().__enter__()


class ModelScope(Contender):
    """The reference's pipeline in its own environment, called as its users call it."""

    name, concurrency, precision = "ModelScope", 1, "fp32"

    def __init__(self, checkpoint: Path, python: Path) -> None:
        self._command = [str(python), str(PEER), str(checkpoint)]

    def __enter__(self) -> Self:
        self._worker = Worker(self._command)
        self.versions = json.loads(self._worker.read('{"ready"'))["ready"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.close()

    def caption(self, image: Path) -> str:
        """See :meth:`Contender.caption`."""
        return json.loads(self._worker.ask(str(image), '{"caption"'))["caption"]
