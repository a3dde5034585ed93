"""Captions for a Ray data set: ``pip install 'ofa-client[ray]'``.

>>> import ray
>>> from ofa_client.ray import caption_dataset
>>> images = ray.data.read_parquet("images.parquet")                        # doctest: +SKIP
>>> captioned = caption_dataset(images, ["grpc://one:8001", "grpc://two:8001"])  # doctest: +SKIP
>>> captioned.write_parquet("captioned")                                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_client.bulk.outage import reason_of
from ofa_client.bulk.run import PATIENT, is_fatal
from ofa_client.bulk.tables import image_of
from ofa_client.many import DEFAULT_CONCURRENCY
from ofa_client.sync import Captioner

if TYPE_CHECKING:
    from ray.data import Dataset

CAPTION_COLUMN = "caption"
SCORE_COLUMN = "caption_score"
ERROR_COLUMN = "caption_error"


def caption_dataset(
    dataset: Dataset,
    url: str | Sequence[str],
    *,
    image_column: str = "image",
    clients: int = 2,
    concurrency: int = DEFAULT_CONCURRENCY,
    batch_size: int = 64,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Dataset:
    """Add captions to a data set, lazily, as any of Ray's own steps.

    Args:
        dataset: with images as bytes, paths, URLs, Hugging Face's ``{bytes, path}``, or RGB uint8 arrays.
        url: the server, or its replicas; every client sends to all of them in turn.
        image_column: the images' column; for ``read_webdataset(…, decoder=None)`` its suffix, such as ``jpg``.
        clients: Ray actors that send, each ``concurrency`` images at a time.
        concurrency: images that each client has in flight.
        batch_size: rows that a client takes at a time, best a few times ``concurrency``.
        options: search options, see :class:`~ofa_client.SearchOptions`; the requests are of the ``batch`` class.
        **settings: a captioner's other arguments, see :class:`~ofa_client.AsyncCaptioner`.

    Returns:
        the data set with ``caption``, ``caption_score``, and ``caption_error`` (``CODE: sentence``), which is null
        where there is a caption, as the others are where there is none.

    What all images would meet, such as servers that stay away for two minutes, ends the job.
    """
    return dataset.map_batches(
        CaptionBatch,
        fn_constructor_kwargs={
            "url": url,
            "image_column": image_column,
            "concurrency": concurrency,
            "options": options,
            "settings": settings,
        },
        batch_size=batch_size,
        batch_format="numpy",
        compute=_actors(clients),
        num_cpus=0.1,  # it waits for the servers
    )


class CaptionBatch:
    """What each Ray actor does: a captioner of its own, and a batch of rows at a time."""

    def __init__(
        self,
        url: str | Sequence[str],
        image_column: str,
        concurrency: int,
        options: dict[str, Any] | None,
        settings: dict[str, Any],
    ) -> None:
        self._captioner = Captioner(url, **{"retry": PATIENT, "timeout": 300, **settings})
        self._image_column = image_column
        self._concurrency = concurrency
        self._options = {"priority_class": "batch", **(options or {})}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add the columns to a batch."""
        captions, scores, reasons = [], [], []
        images = map(image_of, batch[self._image_column])
        for outcome in self._captioner.caption_many(images, concurrency=self._concurrency, **self._options):
            if is_fatal(outcome.error, self._captioner, in_order=True):
                raise outcome.error
            failed = outcome.error is not None
            captions.append(None if failed else outcome.caption.text)
            scores.append(None if failed else outcome.caption.score)
            reasons.append(": ".join(reason_of(outcome.error)) if failed else None)
        columns = {CAPTION_COLUMN: captions, SCORE_COLUMN: scores, ERROR_COLUMN: reasons}
        return {**batch, **{name: np.array(column, dtype=object) for name, column in columns.items()}}


def _actors(clients: int) -> Any:
    from ray.data import ActorPoolStrategy  # noqa: PLC0415 - an extra

    return ActorPoolStrategy(size=clients)
