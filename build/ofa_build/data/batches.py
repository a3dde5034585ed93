"""Records to batches: the same examples in the same order, whatever the number of processes and workers."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from ofa_serving.contract import CaptionError
from ofa_serving.images import load_pixels
from ofa_serving.signals import ending
from ofa_serving.tokenizer import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from .captions import encode_target
from .records import BadRecords, DataError, Record
from .sources import CaptionData, CaptionStream

_GREY = 127
_SHUFFLE_BUFFER = 1000
"""Records of a stream among whose examples the next is drawn."""
STREAM_ORDER = 2
"""Which order a stream's examples have; a run does not continue in another. In the first, an image's came in a row."""


@dataclass(frozen=True)
class CaptionBatch:
    """Examples that are learned from together.

    A batch of which nothing could be used has one grey picture and a target of padding alone, so that every process
    can still take its part in the update; ``keys`` is then empty.

    Attributes:
        pixels: uint8 [B, S, S, 3], RGB.
        targets: int64 [B, T], tokens with the end of sentence, padded.
        keys: each example's record and caption number.
        references: each example's captions, all of its image's.
        bad: names and reasons of the records that could not be used.
    """

    pixels: Tensor
    targets: Tensor
    keys: tuple[tuple[int, int], ...]
    references: tuple[tuple[str, ...], ...]
    bad: tuple[tuple[str, str], ...]

    @property
    def images(self) -> int:
        """How many examples count."""
        return len(self.keys)

    def to(self, device: torch.device) -> Self:
        """Move the tensors."""
        pixels, targets = self.pixels.to(device, non_blocking=True), self.targets.to(device, non_blocking=True)
        return replace(self, pixels=pixels, targets=targets)


@dataclass(frozen=True)
class Encoding:
    """How a record becomes an example of a checkpoint."""

    tokenizer: Tokenizer
    image_size: int
    max_words: int
    max_tokens: int
    caption_prefix: str = ""

    def example(self, record: Record, key: tuple[int, int]) -> tuple[Any, ...]:
        """Give pixels, target, key and references, or the record's name and what is wrong with it."""
        try:
            data = record.read()
        except Exception as error:  # a data set's own reader may raise anything
            return record.name, str(error)
        try:
            pixels = load_pixels(data, self.image_size)
        except CaptionError as error:
            return record.name, str(error)
        caption = record.captions[key[1]]
        target = encode_target(self.tokenizer, caption, self.max_words, self.max_tokens, self.caption_prefix)
        return pixels, target, key, record.captions

    def collate(self, examples: Sequence[tuple[Any, ...]], more_bad: Sequence[tuple[str, str]] = ()) -> CaptionBatch:
        """Put examples together."""
        good = [example for example in examples if len(example) == 4]
        bad = [*more_bad, *(example for example in examples if len(example) == 2)]
        if not good:
            grey = torch.full((1, self.image_size, self.image_size, 3), _GREY, dtype=torch.uint8)
            return CaptionBatch(grey, torch.full((1, 1), self.tokenizer.special.pad), (), (), tuple(bad))
        pixels, targets, keys, references = zip(*good, strict=True)
        padded = torch.full((len(good), max(map(len, targets))), self.tokenizer.special.pad)
        for row, target in zip(padded, targets, strict=True):
            row[: len(target)] = torch.tensor(target)
        return CaptionBatch(torch.from_numpy(np.stack(pixels)), padded, keys, references, tuple(bad))


@dataclass(frozen=True)
class Share:
    """Which part of every update's examples a process takes, and in how many steps."""

    batch_size: int
    accumulation: int = 1
    rank: int = 0
    processes: int = 1

    @property
    def global_size(self) -> int:
        """Examples of one update."""
        return self.batch_size * self.accumulation * self.processes

    def batches(self, examples: int) -> int:
        """Tell how many batches an update of so many examples is to each process: fewer where fewer are enough."""
        return -(-examples // (self.processes * self.batch_size))

    def of(self, examples: Sequence[Any]) -> list[list[Any]]:
        """Give this process's batches of an update's examples.

        Those of an epoch's last update are spread evenly: a batch is empty only where there are more processes than
        examples, since an empty one is a picture of nothing to the batch norms.
        """
        own = _evenly(examples, self.processes)[self.rank]
        return _evenly(own, self.batches(len(examples)))


def _evenly(examples: Sequence[Any], parts: int) -> list[list[Any]]:
    """Cut into parts of which none is more than one longer than another, the longer ones first."""
    return [[examples[place] for place in part] for part in np.array_split(np.arange(len(examples)), parts)]


class Batches:
    """What a training run reads: for every update, this process's batches.

    Args:
        data: the records; a stream has no epochs.
        encoding: how they become examples.
        share: this process's part.
        per_image: one example an image with all its captions, instead of one a caption.
        seed: of the order.
        workers: processes that decode images; 0 decodes in this one.

    """

    def __init__(
        self,
        data: CaptionData | CaptionStream,
        encoding: Encoding,
        share: Share,
        *,
        per_image: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.data, self.encoding, self.share = data, encoding, share
        self.seed, self.workers, self.per_image = seed, workers, per_image
        self._keys = _example_keys(data.records, per_image) if isinstance(data, CaptionData) else None
        self._epoch, self._order = -1, np.empty(0, int)

    @property
    def bad(self) -> BadRecords:
        """The account of what was skipped."""
        return self.data.bad

    @property
    def updates_per_epoch(self) -> int | None:
        """Updates that see every example once; None for a stream."""
        return None if self._keys is None else -(-len(self._keys) // self.share.global_size)

    def updates(self, first: int, last: int) -> Iterator[list[CaptionBatch]]:
        """Give the batches of updates number ``first`` to ``last`` (not included), counting from 0.

        Raises:
            DataError: when too many records are bad.

        """
        batches = map(_unless_failed, self._loader(first, last))
        for number in range(first, last):
            wanted = self.share.batches(self._examples_of(number))
            update = list(itertools.islice(batches, wanted))
            if len(update) < wanted:
                raise DataError("the stream has no record that can be used")
            for name, reason in itertools.chain.from_iterable(batch.bad for batch in update):
                self.bad.add(name, reason)
            yield update

    def _loader(self, first: int, last: int) -> DataLoader:
        data, order = _StreamedBatches(self, first, last), None
        if self._keys is not None:
            data = _Examples(self.data.records, self.encoding)
            order = itertools.chain.from_iterable(self.share.of(self._keys_of(update)) for update in range(first, last))
        return DataLoader(
            data,
            batch_size=None,  # what the data gives are batches
            sampler=order,
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            worker_init_fn=_outlive_signals,
            multiprocessing_context="fork" if self.workers else None,
        )

    def _examples_of(self, update: int) -> int:
        """Tell how many examples an update has; an epoch's last one may have fewer."""
        size = self.share.global_size
        return size if self._keys is None else min(size, len(self._keys) - update % self.updates_per_epoch * size)

    def _keys_of(self, update: int) -> list[tuple[int, int]]:
        """Give the examples of an update."""
        epoch, place = divmod(update, self.updates_per_epoch)
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self._keys))
        size = self.share.global_size
        return [self._keys[index] for index in self._order[place * size : (place + 1) * size]]


def _outlive_signals(_worker: int) -> None:
    """Keep a worker from what is sent to its process's whole group, or to every process of a job or container.

    The run ends after the update at hand and needs its workers until then; they end with it, or when it says so: a
    process that exits tells them by SIGTERM, and waits for them. A worker is a fork, which has one thread as yet: a new
    process would have others, of libraries, to which a SIGTERM came all the same.
    """
    os.setpgrp()
    for number in ending():
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # no handler is told who sent it
    threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    """End the worker by its own process's SIGTERM, and by no other's."""
    run = multiprocessing.parent_process().pid
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != run:
        pass
    os._exit(0)  # of anything else torch says that a worker failed


@dataclass(frozen=True)
class _Failure:
    """What ended a worker, in words: torch would put its trace into the message, and not every error can be sent.

    Attributes:
        is_data_error: whether the sentence is one of ours or the system's.
        sentence: what to say.
        trace: where it was.
    """

    is_data_error: bool
    sentence: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Describe the error at hand; where there are no workers, it is raised as it is."""
        if get_worker_info() is None:
            raise error
        is_data_error = isinstance(error, DataError | OSError)
        said = str(error) if is_data_error else f"a worker failed with {type(error).__name__}: {error}"
        return cls(is_data_error, said, traceback.format_exc())


def _unless_failed(batch: CaptionBatch | _Failure) -> CaptionBatch:
    """Raise what a worker failed with."""
    if isinstance(batch, _Failure):
        kind = DataError if batch.is_data_error else RuntimeError
        raise kind(batch.sentence) from RuntimeError(f"in a worker:\n{batch.trace}")
    return batch


def _example_keys(records: Sequence[Record], per_image: bool) -> list[tuple[int, int]]:
    counts = (1 if per_image else len(record.captions) for record in records)
    return [(number, caption) for number, count in enumerate(counts) for caption in range(count)]


class _Examples(Dataset):
    """Gives a batch for the keys of its examples."""

    def __init__(self, records: Sequence[Record], encoding: Encoding) -> None:
        self._records, self._encoding = records, encoding

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> CaptionBatch | _Failure:
        try:
            return self._encoding.collate([self._encoding.example(self._records[key[0]], key) for key in keys])
        except Exception as error:
            return _Failure.of(error)


class _StreamedBatches(IterableDataset):
    """Reads the stream from its beginning and leaves out what earlier updates and other workers have."""

    def __init__(self, batches: Batches, first: int, last: int) -> None:
        self._batches, self._first, self._last = batches, first, last

    def __iter__(self) -> Iterator[CaptionBatch | _Failure]:
        try:
            yield from self._own()
        except Exception as error:
            yield _Failure.of(error)

    def _own(self) -> Iterator[CaptionBatch]:
        """Give what this worker has of the updates."""
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        share, encoding = self._batches.share, self._batches.encoding
        bad = self._batches.bad
        if worker:
            bad.limit = len(bad) + (1 << 30)  # the main process counts
        counted = set(bad.reasons)
        step = 0
        examples = self._examples()
        for update in range(self._last):
            together = list(itertools.islice(examples, share.global_size))
            if update < self._first:
                continue
            for batch in share.of(together) if len(together) == share.global_size else ():
                if step % workers == number:
                    news = [(name, why) for name, why in bad.reasons.items() if name not in counted]
                    counted.update(bad.reasons)
                    yield encoding.collate([encoding.example(record, key) for record, key in batch], news)
                step += 1

    def _examples(self) -> Iterator[tuple[Record, tuple[int, int]]]:
        """Repeat the stream, each time in another order; nothing is left out between two rounds."""
        for epoch in itertools.count():
            rng, is_empty = np.random.default_rng((self._batches.seed, epoch)), True
            for example in _shuffled(self._round(), rng):
                yield example
                is_empty = False
            if is_empty:
                return

    def _round(self) -> Iterator[list[tuple[Record, tuple[int, int]]]]:
        """Give each record's examples, once."""
        for number, record in enumerate(self._batches.data.open()):
            captions = 1 if self._batches.per_image else len(record.captions)
            yield [(record, (number, caption)) for caption in range(captions)]


def _shuffled(groups: Iterable[Sequence[Any]], rng: np.random.Generator) -> Iterator[Any]:
    """Draw each next one from among those that wait, whatever group it came with."""
    waiting: list[Any] = []
    for group in groups:
        waiting += group
        while len(waiting) >= _SHUFFLE_BUFFER * len(group):
            index = int(rng.integers(len(waiting)))
            waiting[index], waiting[-1] = waiting[-1], waiting[index]
            yield waiting.pop()
    yield from (waiting[index] for index in rng.permutation(len(waiting)))
