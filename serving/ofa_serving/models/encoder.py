"""``pixels`` UINT8 [b, S, S, 3] to ``hidden`` FP32 [b, N, d], for encoder engines that Triton has no backend for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..contract import Tensor
from ..engines.loading import load_encoder
from .triton import Settings, fault, refusal, tensor


class EncoderModel:
    """Runs what Triton's dynamic batcher hands over as one batch."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the engine."""
        settings = Settings(args)
        self._name = settings.name
        self._encoder = load_encoder(
            settings.text("engine"), Path(settings.folder), settings.integer("threads"), settings.text("precision")
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, from one run for all."""
        try:
            pixels = [tensor(request, Tensor.PIXELS) for request in requests]
            hidden = self._encoder.run(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
            parts = np.split(hidden, np.cumsum([len(images) for images in pixels])[:-1])
            return [pb_utils.InferenceResponse([pb_utils.Tensor(Tensor.HIDDEN, part)]) for part in parts]
        except Exception:
            return [refusal(fault(self._name)) for _ in requests]
