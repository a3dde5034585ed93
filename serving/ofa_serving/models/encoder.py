"""``pixels`` UINT8 [b, S, S, 3] to ``hidden`` [b, N, d], for encoder engines that Triton's own backends do not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ..contract import STATES_ON_GPU, Tensor
from ..engines.device import on_host
from ..engines.loading import load_encoder
from .triton import Settings, fault, output, refusal, tensor


class EncoderModel:
    """Runs what Triton's dynamic batcher hands over as one batch."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the engine."""
        settings = Settings(args)
        self._name = settings.name
        self._on_gpu = settings.has(STATES_ON_GPU)
        self._encoder = load_encoder(settings.engine(), Path(settings.folder))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, from one run for all."""
        try:
            pixels = [tensor(request, Tensor.PIXELS) for request in requests]
            hidden = self._encoder.run(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
            hidden = hidden if self._on_gpu else on_host(hidden)
            ends = np.cumsum([len(images) for images in pixels])
            parts = (hidden[end - len(images) : end] for images, end in zip(pixels, ends.tolist(), strict=True))
            return [pb_utils.InferenceResponse([output(Tensor.HIDDEN, part)]) for part in parts]
        except Exception:
            return [refusal(fault(self._name)) for _ in requests]
