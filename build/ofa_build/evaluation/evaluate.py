"""Captions every record, scores the captions, and says how fast they came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.records import BadRecords, DataError, Record
from .captioners import Captioner
from .metrics import METRICS, Scores, is_exact, require, score


@dataclass(frozen=True)
class Judged:
    """One image's caption beside its references, and the metrics that a single image has."""

    record: Record
    caption: str
    scores: dict[str, float]

    @property
    def is_exact(self) -> bool:
        """Whether the caption is one of the references."""
        return is_exact(self.caption, self.record.captions)


@dataclass(frozen=True)
class Speed:
    """How fast captions came: over all of them a second, and the quantiles of one, in milliseconds."""

    captions_per_second: float
    latency_ms: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What ``ofa-build evaluate`` reports; ``judged`` in the data's order."""

    scores: Scores
    exact: float
    judged: list[Judged]
    bad: BadRecords
    speed: Speed
    captioner: dict[str, str]


def evaluate(
    captioner: Captioner, records: Sequence[Record], bad: BadRecords, metrics: Sequence[str] = METRICS
) -> Evaluation:
    """Judge a captioner; records that it cannot caption are added to ``bad``.

    Raises:
        DataError: if too many records are bad, or none is left.
        MetricError: before anything is captioned, if there would be no score: Java or pycocoevalcap is missing.
        ServerError: if a server cannot be asked.

    """
    require(metrics)
    captions: dict[int, str] = {}
    seconds: list[float] = []
    started = time.perf_counter()
    for number, answer, took in captioner.answers(records):
        if isinstance(answer, str):
            captions[number] = answer
            seconds.append(took)
        else:
            bad.add(records[number].name, str(answer))
    elapsed = time.perf_counter() - started
    if not captions:
        raise DataError(f"no record could be captioned: {bad.summary()}")
    numbers = sorted(captions)
    by_key = {str(number): captions[number] for number in numbers}
    scores = score({str(number): records[number].captions for number in numbers}, by_key, metrics)
    judged = [
        Judged(records[number], captions[number], {name: values[place] for name, values in scores.each.items()})
        for place, number in enumerate(numbers)
    ]
    exact = sum(one.is_exact for one in judged) / len(judged)
    return Evaluation(scores, exact, judged, bad, _speed(seconds, elapsed), captioner.description)


def _speed(seconds: Sequence[float], elapsed: float) -> Speed:
    quantiles = {f"p{percent}": float(1000 * np.percentile(seconds, percent)) for percent in (50, 95, 99)}
    return Speed(len(seconds) / elapsed, quantiles)
