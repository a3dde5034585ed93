"""The served pipeline in one process, without Triton: the same files and code, for building, tests and evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from .contract import CaptionError, Names
from .engines.device import Array
from .engines.loading import EngineChoice, load_decoder, load_encoder
from .generation import GenerationConfig
from .images import load_pixels
from .scheduler import Job, Scheduler, SearchResult
from .tokenizer import Tokenizer


class LocalCaptioner:
    """A built repository whose stages run here."""

    def __init__(
        self, repository: Path, name: str, threads: int = 0, engine: str | None = None, device: str | None = None
    ) -> None:
        """Loads the engines that were built as ``name``.

        Args:
            repository: a built ``model_repository``.
            name: the public model's.
            threads: of each engine; 0 takes all cores.
            engine: instead of the configuration's.
            device: instead of the configuration's, see :class:`EngineChoice`.
        """
        names = Names(name)
        entry, preprocess = (_config(repository / model) for model in (names.public, names.preprocess))
        search = _config(repository / names.beam_search)
        folder = repository / names.beam_search / "1"
        defaults = {key: entry.parameters[key].string_value for key in asdict(GenerationConfig())}
        self.defaults = GenerationConfig.from_request(defaults, GenerationConfig())
        self.tokenizer = Tokenizer.load(folder, search.parameters["language"].string_value)
        self._image_size = int(preprocess.parameters["image_size"].string_value)
        given = {key: search.parameters[key].string_value for key in ("engine", "precision", "device")}
        choice = EngineChoice(
            engine or given["engine"], given["precision"], threads, device or given["device"] or EngineChoice.device
        )
        self._encoder = load_encoder(choice, repository / names.encoder / "1")
        self._scheduler = Scheduler(
            load_decoder(choice, folder),
            self.tokenizer.special,
            max_captions=int(search.parameters["max_captions"].string_value),
            max_pending=1 << 30,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the search's thread."""
        self._scheduler.close()

    def encode(self, pixels: np.ndarray) -> Array:
        """States [b, N, d] of pixels UINT8 [b, S, S, 3], where the engine keeps them."""
        hidden = self._encoder.run(pixels)
        # On the host the engine's next run may overwrite them. On a GPU they are new, and the search's stream would not
        # wait for a copy.
        return hidden.copy() if isinstance(hidden, np.ndarray) else hidden

    def search(self, hidden: Array, settings: GenerationConfig) -> list[SearchResult]:
        """The finished searches of states [b, N, d], in their order."""
        futures = [Future() for _ in hidden]
        until = time.monotonic() + 3600
        self._scheduler.submit(
            [Job(states, settings, until, future.set_result) for states, future in zip(hidden, futures, strict=True)]
        )
        results = [future.result() for future in futures]
        for result in results:
            if isinstance(result, CaptionError):
                raise result
        return results

    def captions(self, images: Sequence[bytes], **parameters: float) -> list[list[str]]:
        """The n best captions of each image file, with the request parameters of the contract.

        Raises:
            CaptionError: for an image or a parameter that the server would refuse too.
        """
        settings = GenerationConfig.from_request(parameters, self.defaults)
        pixels = np.stack([load_pixels(image, self._image_size) for image in images])
        results = self.search(self.encode(pixels), settings)
        return [
            [self.tokenizer.caption(found.tokens.tolist()) for found in result.hypotheses[: settings.num_captions]]
            for result in results
        ]


def _config(folder: Path) -> ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())
