"""``image`` BYTES [b, 1] to ``pixels`` UINT8 [b, S, S, 3]."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..cancellation import SLOT_PARAMETER, CancelFlags
from ..contract import CaptionError, Names, Tensor, late
from ..images import load_pixels
from ..metrics import ImageMetrics
from ..stage_key import StageKey
from ..telemetry.logs import configure_logs
from ..telemetry.origin import TRACE_PARAMETER
from ..telemetry.requests import RequestLog
from ..telemetry.spans import open_spans
from .publishing import Publisher
from .triton import Settings, deadline, fault, refusal, request_parameters, tensor


class PreprocessModel:
    """Validates, decodes, orients and resizes; one instance is one process, so instances decode in parallel."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the image size of the checkpoint."""
        settings = Settings(args)
        stem = settings.name.removesuffix("_preprocess")
        self._flags, self._key = CancelFlags.open(Names(f"{stem}_caption").beam_search), StageKey()
        self._name, self._size = settings.name, settings.integer("image_size")
        self._metrics = ImageMetrics(self._name)
        self._publisher = Publisher(self._metrics.registry)
        configure_logs()
        self._log, self._spans = RequestLog(self._name), open_spans(self._name)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request; an image that is refused fails only its own request."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Ends the threads that tell of it."""
        self._publisher.close()
        self._spans.close()

    def _answer(self, request: Any) -> Any:
        started = time.monotonic()
        try:
            parameters = request_parameters(request)
            self._key.demand(parameters)
            cancelled = self._flags.cancelled(parameters.get(SLOT_PARAMETER))
            images = tensor(request, Tensor.IMAGE).reshape(-1)
            pixels = self._pixels(request, images, cancelled)
        except CaptionError as error:
            return refusal(error)
        except Exception:
            return refusal(fault(self._name))
        ended = time.monotonic()
        self._tell(request, parameters.get(TRACE_PARAMETER), started, ended, len(images))
        elapsed = np.full((len(images), 1), (ended - started) * 1e3, np.float32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(Tensor.PIXELS, pixels), pb_utils.Tensor(Tensor.PREPROCESS_MS, elapsed)]
        )

    def _tell(self, request: Any, parent: str | None, started: float, ended: float, images: int) -> None:
        if self._spans.wanted:
            self._spans.record("decode", parent, started, ended, images=images)
        if self._log.every_stage:
            milliseconds = round((ended - started) * 1e3, 1)
            self._log.stage("decoded", request.request_id(), images=images, milliseconds=milliseconds)

    def _pixels(self, request: Any, images: np.ndarray, cancelled: Callable[[], bool]) -> np.ndarray:
        """Of all images, one by one: between them it is seen whether anybody still waits.

        Raises:
            CaptionError: DEADLINE_EXCEEDED, or an image's refusal.
        """
        until, pixels = deadline(request, math.inf), []
        for index, image in enumerate(images):
            if cancelled() or time.monotonic() >= until:
                raise late()
            pixels.append(self._load(request.request_id(), image, index, len(images)))
        return np.stack(pixels)

    def _load(self, request_id: str, image: bytes, index: int, count: int) -> np.ndarray:
        self._metrics.received(request_id, len(image))
        try:
            return load_pixels(image, self._size)
        except CaptionError as error:
            if count == 1:
                raise
            raise CaptionError(error.code, f"image {index + 1} of {count}: {error.message}") from error
