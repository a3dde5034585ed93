"""The teacher of a distillation: run when it is asked, or remembered on disk."""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Checkpoint
from ..data.batches import CaptionBatch
from ..evaluation.search import normalise_pixels
from ..model import OFA
from .inner_states import Place, recording
from .work_folder import RunError, make_folder

log = logging.getLogger("ofa-build")


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of a batch: logits [N, V] of the tokens that count, and what was recorded inside by place."""

    logits: Tensor
    attention: dict[Place, Tensor]
    hidden: dict[Place, Tensor]


class Teacher:
    """A checkpoint that is only asked.

    Args:
        checkpoint: the teacher's.
        device: where it runs.
        attention: layers whose attention is wanted.
        hidden: layers whose states are wanted.

    """

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, attention: Iterable[Place], hidden: Iterable[Place]
    ) -> None:
        self.model = OFA(checkpoint.config).to(memory_format=torch.channels_last)  # as the student
        self.model.load_state_dict(dict(checkpoint.state_dict))
        self.model.to(device).eval().requires_grad_(False)
        self._settings = checkpoint.settings
        prompt = checkpoint.tokenizer.encode_prompt(self._settings.prompt, self._settings.max_src_length)
        self._prompt = torch.tensor(prompt, device=device)
        self._attention, self._hidden = tuple(attention), tuple(hidden)

    @torch.no_grad()
    def __call__(self, batch: CaptionBatch, inputs: Tensor, counts: Tensor) -> Lesson:
        """Run it on a batch whose decoder is fed ``inputs`` [B, T], of which those count where ``counts`` is true."""
        with recording(self.model, self._attention, self._hidden) as seen:
            logits = self.model(normalise_pixels(batch.pixels, self._settings), self._prompt, inputs, counts)
        return Lesson(logits.float(), dict(seen.attention), dict(seen.hidden))


class CachedTeacher:
    """Remembers on disk what a teacher said of each example: the second epoch does not run it.

    The logits are kept whole, in bfloat16; what is inside, in float16. An example takes about ``2 * (T * V + layers *
    N^2)`` bytes.

    Args:
        teacher: who is asked what is not remembered.
        folder: one file an example, by the numbers of its record and caption and its picture's checksum; it belongs to
            one teacher and data set.

    """

    def __init__(self, teacher: Teacher, folder: Path) -> None:
        self._teacher, self._folder = teacher, folder
        make_folder(folder)

    def __call__(self, batch: CaptionBatch, inputs: Tensor, counts: Tensor) -> Lesson:
        """See :meth:`Teacher.__call__`.

        Raises:
            RunError: if the folder cannot be written, as when the disk is full.

        """
        if not batch.keys:
            return self._teacher(batch, inputs, counts)
        shown = zip(batch.keys, batch.pixels.cpu().numpy(), strict=True)
        names = (f"{record}-{caption}-{zlib.crc32(pixels):08x}.pt" for (record, caption), pixels in shown)
        paths = [self._folder / name for name in names]
        examples = [_recalled(path, inputs.device) for path in paths]
        if None in examples:
            lesson = self._teacher(batch, inputs, counts)
            lengths = counts.sum(1).tolist()
            for row, (path, logits) in enumerate(zip(paths, lesson.logits.split(lengths), strict=True)):
                if examples[row] is None:
                    self._remember(path, lesson, row, logits)
                    examples[row] = torch.load(path, map_location=inputs.device, weights_only=True)
        return _joined(examples, inputs.shape[1])

    def _remember(self, path: Path, lesson: Lesson, row: int, logits: Tensor) -> None:
        length = len(logits)
        example = {
            "logits": logits.bfloat16(),
            "attention": {place: _cut(part[row], place, length) for place, part in lesson.attention.items()},
            "hidden": {place: _cut(part[row], place, length, square=False) for place, part in lesson.hidden.items()},
        }
        # Several runs, and a run's own processes, may write one example at a time.
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            torch.save(example, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise RunError(f"the teacher's outputs cannot be kept in {self._folder}: {error}") from error


def _recalled(path: Path, device: torch.device) -> dict | None:
    """Read what was said of an example; what cannot be read is to be asked again."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a cut archive raises many kinds
        log.warning("%s cannot be read and is written again: %s", path, (str(error).splitlines() or [""])[0])
        return None


def _cut(part: Tensor, place: Place, length: int, square: bool = True) -> Tensor:
    """Leave out the decoder's padding."""
    if place[0] == "decoder":
        part = part[:length, :length] if square else part[:length]
    return part.half().cpu().clone()


def _joined(examples: list[dict], length: int) -> Lesson:
    """Pad what was cut, so that it is a batch again."""
    logits = torch.cat([example["logits"].float() for example in examples])
    attention = {
        place: torch.stack([
            _padded(example["attention"][place].float(), (length, length) if place[0] == "decoder" else ())
            for example in examples
        ])
        for place in examples[0]["attention"]
    }  # fmt: skip
    hidden = {
        place: torch.stack([
            _padded(example["hidden"][place].float(), (length,) if place[0] == "decoder" else ())
            for example in examples
        ])
        for place in examples[0]["hidden"]
    }  # fmt: skip
    return Lesson(logits, attention, hidden)


def _padded(part: Tensor, sizes: tuple[int, ...]) -> Tensor:
    whole = part.new_zeros((*sizes, *part.shape[len(sizes) :]))
    whole[tuple(slice(0, size) for size in part.shape[: len(sizes)])] = part
    return whole
