"""The known image: a caption that only a server in order gives.

A server says it is ready as soon as its models have loaded, and goes on saying so when they have died or answer with
zeros. So it is asked for what a user asks for, through the public model.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ofa_serving.contract import Code, Tensor
from ofa_serving.launcher.endpoints import CHANNEL_ARGS, Endpoints
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.server_metrics import read_metric
from ofa_serving.metrics import OK, REQUESTS_METRIC

_POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


class Busy(LaunchError):
    """The server refused its known image because it has no room, or is stopping. Then it is alive."""


class Late(LaunchError):
    """No caption came in time: the server hangs, or has much else to do."""


class WrongCaption(LaunchError):
    """The known image got another caption than its own; so may all others, however many get one."""


def kept_folder(run_folder: Path, grpc_port: int, model: str) -> Path:
    """Where the launcher of the server at this port keeps a known image for the probe.

    It is the one the server started with: the artifact's own may by now be of a build that takes its place.
    """
    return run_folder / "canaries" / str(grpc_port) / model


@dataclass(frozen=True)
class Canary:
    """An image, the request parameters it is sent with, and the captions that may come back, the likeliest first.

    Its requests have an id by which the models count them apart: a new one unless it is loaded with one.
    """

    model: str
    image: bytes
    parameters: Mapping[str, Any]
    captions: tuple[str, ...]
    request_id: str = field(default_factory=lambda: f"canary-{secrets.token_hex(8)}")

    @classmethod
    def load(cls, folder: Path, model: str) -> Self:
        """Read ``image`` and ``canary.json`` (``captions``, and perhaps the others) from ``folder``.

        Raises:
            LaunchError: one of them is missing or damaged.

        """
        try:
            expected = json.loads((folder / "canary.json").read_text(encoding="utf-8"))
            image = (folder / "image").read_bytes()
            kept = {"request_id": expected["request_id"]} if "request_id" in expected else {}
            return cls(model, image, expected.get("parameters", {}), tuple(expected["captions"]), **kept)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LaunchError(f"{model} has no known image to be tried with: build it again") from error

    def keep(self, folder: Path) -> None:
        """Write what :meth:`load` reads to ``folder``.

        Raises:
            LaunchError: it cannot be written.

        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "image").write_bytes(self.image)
            expected = {name: getattr(self, name) for name in ("captions", "parameters", "request_id")}
            (folder / "canary.json").write_text(json.dumps(expected), encoding="utf-8")
        except OSError as error:
            raise LaunchError(
                f"cannot write {folder} ({error.strerror}); choose another place with --run-folder"
            ) from error

    def check(self, url: str, timeout: float, stopping: threading.Event | None = None) -> None:
        """Ask the server at ``url`` (host:port of gRPC) for the image's captions.

        Args:
            url: of the server.
            timeout: seconds that it may take.
            stopping: ends the wait, and cancels the request.

        Raises:
            Busy: the server refuses to be asked just now.
            Late: none came within ``timeout`` seconds.
            WrongCaption: they differ.
            LaunchError: the server cannot be reached, or refuses for another reason; or ``stopping`` came first.

        """
        try:
            answer = self._ask(url, timeout, stopping)
        except InferenceServerException as error:
            message = _one_line(error)
            raise _kind(error, message)(f"{self.model} could not caption its known image: {message}") from error
        captions = tuple(caption.decode(errors="replace") for caption in answer.as_numpy(Tensor.CAPTION).flat)
        if not captions or not set(captions) <= set(self.captions):
            got, known = _quoted(captions), _quoted(self.captions[:1])
            raise WrongCaption(f"{self.model} captions its known image {got}, not {known}")

    def check_alive(self, endpoints: Endpoints, timeout: float, stopping: threading.Event | None = None) -> bool:
        """As :meth:`check`, but a busy server passes: one that says so, or is late while others get captions of it.

        Restarting it would lose all it is at work on.

        Returns:
            whether the image was captioned; a busy server may have no time for it.

        Raises:
            LaunchError: the server does not serve.

        """
        before = self._captions(endpoints)
        try:
            self.check(endpoints.grpc, timeout, stopping)
        except Busy:
            logger.info("%s is busy", self.model)
        except Late:
            after = self._captions(endpoints)
            if before is None or after is None or after <= before:
                raise
            logger.info("%s is busy: its known image got no caption in time, others did", self.model)
        else:
            return True
        return False

    def _ask(self, url: str, timeout: float, stopping: threading.Event | None) -> triton.InferResult:
        image = triton.InferInput(Tensor.IMAGE, [1, 1], "BYTES")
        image.set_data_from_numpy(np.array([[self.image]], dtype=np.object_))
        answer: Future[triton.InferResult] = Future()

        def answered(result: triton.InferResult | None, error: InferenceServerException | None) -> None:
            answer.set_exception(error) if error else answer.set_result(result)

        with triton.InferenceServerClient(url, channel_args=CHANNEL_ARGS) as client:  # whose end cancels the request
            client.async_infer(
                self.model,
                [image],
                answered,
                request_id=self.request_id,
                outputs=[triton.InferRequestedOutput(Tensor.CAPTION)],
                parameters=dict(self.parameters),
                client_timeout=timeout,
            )
            while not wait([answer], _POLL_SECONDS).done:
                if stopping is not None and stopping.is_set():
                    raise LaunchError(f"{self.model} was stopped before it captioned its known image")
        return answer.result()

    def _captions(self, endpoints: Endpoints) -> float | None:
        """Return how many requests but the probes' got captions so far; None if the server does not say."""
        return read_metric(endpoints.metrics, REQUESTS_METRIC, model=self.model, code=OK)


def _kind(error: InferenceServerException, message: str) -> type[LaunchError]:
    if f"{Code.OVERLOADED}: " in message:
        return Busy
    late = error.status() == "StatusCode.DEADLINE_EXCEEDED" or f"{Code.DEADLINE_EXCEEDED}: " in message
    return Late if late else LaunchError


def _one_line(error: InferenceServerException) -> str:
    return " ".join(str(error.message()).split())


def _quoted(captions: tuple[str, ...]) -> str:
    return ", ".join(f"'{caption}'" for caption in captions) or "with nothing"
