"""Who captions: a checkpoint in PyTorch, or a running server through the SDK."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from ofa_serving.images import load_pixels
from ofa_serving.tokenizer import Tokenizer

from ..checkpoint import Checkpoint, PipelineSettings
from ..data.records import Record
from ..model import OFA
from .search import normalise_pixels, search_captions

if TYPE_CHECKING:
    from ofa_client import AsyncCaptioner

Answer = tuple[int, str | Exception, float]
"""A record's number, its caption or why it has none, and the seconds it took."""


class ServerError(RuntimeError):
    """The server cannot be asked, whatever the image."""


class Captioner(Protocol):
    """Captions records."""

    @property
    def description(self) -> dict[str, str]:
        """What a report says of it."""

    def answers(self, records: Sequence[Record]) -> Iterator[Answer]:
        """Yield each record's answer, in any order."""


@dataclass
class TorchCaptioner:
    """A model in PyTorch. What is measured as an image's latency is its batch's time."""

    model: OFA
    settings: PipelineSettings
    tokenizer: Tokenizer
    batch_size: int = 16
    name: str = "a model in PyTorch"

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device, batch_size: int = 16, name: str = "") -> TorchCaptioner:
        """Put a checkpoint's model on a device."""
        model = OFA(checkpoint.config)
        model.load_state_dict(dict(checkpoint.state_dict))
        return cls(model.to(device).eval(), checkpoint.settings, checkpoint.tokenizer, batch_size, name=name)

    @property
    def description(self) -> dict[str, str]:
        """See :class:`Captioner`."""
        device = next(self.model.parameters()).device
        latency = f"of a batch of {self.batch_size}"
        return {"captioner": "PyTorch", "checkpoint": self.name, "device": str(device), "latency": latency}

    def answers(self, records: Sequence[Record]) -> Iterator[Answer]:
        """See :class:`Captioner`."""
        for first in range(0, len(records), self.batch_size):
            started = time.perf_counter()
            good: list[tuple[int, np.ndarray]] = []
            for number in range(first, min(first + self.batch_size, len(records))):
                try:
                    good.append((number, load_pixels(records[number].read(), self.settings.patch_image_size)))
                except Exception as error:  # a data set's own reader may raise anything
                    yield number, error, 0.0
            if good:
                captions = self.captions(np.stack([pixels for _, pixels in good]))
                seconds = time.perf_counter() - started
                yield from ((number, caption, seconds) for (number, _), caption in zip(good, captions, strict=True))

    def captions(self, pixels: np.ndarray) -> list[str]:
        """Give the best caption of each picture, uint8 [B, S, S, 3]."""
        device = next(self.model.parameters()).device
        prompt = torch.tensor(self.tokenizer.encode_prompt(self.settings.prompt, self.settings.max_src_length))
        found = search_captions(
            self.model,
            normalise_pixels(torch.from_numpy(pixels).to(device), self.settings),
            prompt.to(device),
            self.settings.generation,
            self.tokenizer.special,
        )
        return [self.tokenizer.caption(hypotheses[0].tokens.tolist()) for hypotheses in found]


@dataclass
class ServedCaptioner:
    """A running server, asked through the SDK by so many tasks at a time."""

    url: str
    model: str
    concurrency: int = 8
    timeout: float = 60.0

    @property
    def description(self) -> dict[str, str]:
        """See :class:`Captioner`."""
        latency = f"of a request, {self.concurrency} at a time"
        return {"captioner": "as served", "model": self.model, "latency": latency}

    def answers(self, records: Sequence[Record]) -> Iterator[Answer]:
        """See :class:`Captioner`.

        Raises:
            ServerError: if the server cannot be reached, or does not serve the model.

        """
        yield from asyncio.run(self._answers(records))

    async def _answers(self, records: Sequence[Record]) -> list[Answer]:
        client = _client()
        answers: list[Answer] = []
        numbers = iter(range(len(records)))
        try:
            asked = client.AsyncCaptioner(self.url, model=self.model, timeout=self.timeout)
        except ValueError as error:  # of the address
            raise ServerError(str(error)) from error
        async with asked as captioner:

            async def work() -> None:
                for number in numbers:
                    answers.append((number, *await self._answer(captioner, records[number].read)))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.concurrency):
                        group.create_task(work())
            except* ServerError as errors:
                raise errors.exceptions[0] from None
        return answers

    async def _answer(self, captioner: AsyncCaptioner, read: Callable[[], bytes]) -> tuple[str | Exception, float]:
        client = _client()
        try:
            image = await asyncio.to_thread(read)
        except Exception as error:  # a data set's own reader may raise anything
            return error, 0.0
        started = time.perf_counter()
        try:
            caption = await captioner.caption(image)
        except (client.ServiceUnavailableError, client.ModelNotFoundError, client.AccessRefusedError) as error:
            raise ServerError(str(error)) from error
        except client.CaptionServiceError as error:
            return error, time.perf_counter() - started
        return caption.text, time.perf_counter() - started


def _client() -> object:
    try:
        import ofa_client  # noqa: PLC0415  (a distribution of its own)
    except ImportError as error:
        raise ServerError("the SDK is not installed: install ofa-client") from error
    return ofa_client
