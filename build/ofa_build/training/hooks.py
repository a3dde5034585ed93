"""What watches a run: logs, curves, a progress bar, and whatever else a user hangs in."""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("ofa-build")


@dataclass(frozen=True)
class Progress:
    """Where a run is, over the last interval.

    Attributes:
        update: updates done.
        updates: of all.
        epoch: passes over the data, a share of the next included; 0 for a stream.
        means: each term's mean, and the gradient's norm.
        learning_rate: of the last update.
        images_per_second: over all processes.
        seconds_left: at this speed.
    """

    update: int
    updates: int
    epoch: float
    means: Mapping[str, float]
    learning_rate: float
    images_per_second: float
    seconds_left: float

    @property
    def row(self) -> dict[str, float]:
        """All of it as one line of a table."""
        rounded = {"epoch": round(self.epoch, 3), "images_per_second": round(self.images_per_second, 2)}
        return {"update": self.update, **rounded, "learning_rate": self.learning_rate, **self.means}


class Hook:
    """Override what you want to know of; only the main process calls. Raising ends the run after its last save."""

    def on_start(self, update: int, updates: int) -> None:
        """The run begins, or continues after ``update`` updates."""

    def on_update(self, update: int) -> None:
        """An update is done."""

    def on_interval(self, progress: Progress) -> None:
        """The logging interval is over."""

    def on_evaluation(self, update: int, scores: Mapping[str, float], is_best: bool) -> None:
        """The model was evaluated."""

    def on_save(self, update: int, folder: Path) -> None:
        """A checkpoint lies in ``folder``."""

    def on_end(self, update: int) -> None:
        """The run is over, or was stopped."""


class PlainLog(Hook):
    """One line an interval."""

    def on_start(self, update: int, updates: int) -> None:
        """See :class:`Hook`."""
        if update == updates:
            log.info("all %d updates were done before", updates)

    def on_interval(self, progress: Progress) -> None:
        """See :class:`Hook`."""
        means = ", ".join(f"{name} {value:.4g}" for name, value in progress.means.items())
        log.info(
            "update %d of %d: %s, learning rate %.3g, %.1f images/s, %s left",
            progress.update, progress.updates, means, progress.learning_rate, progress.images_per_second,
            _duration(progress.seconds_left),
        )  # fmt: skip

    def on_evaluation(self, update: int, scores: Mapping[str, float], is_best: bool) -> None:
        """See :class:`Hook`."""
        texts = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
        log.info("evaluated after update %d: %s%s", update, texts, ", the best so far" if is_best else "")

    def on_save(self, update: int, folder: Path) -> None:
        """See :class:`Hook`."""
        log.info("saved %s", folder)


class ProgressBar(Hook):
    """A bar on a terminal; nowhere else."""

    def __init__(self) -> None:
        self._bar = None

    def on_start(self, update: int, updates: int) -> None:
        """See :class:`Hook`."""
        if sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415  (an optional dependency)

            self._bar = tqdm(total=updates, initial=update, unit="update", dynamic_ncols=True)

    def on_update(self, update: int) -> None:
        """See :class:`Hook`."""
        if self._bar is not None:
            self._bar.update()

    def on_interval(self, progress: Progress) -> None:
        """See :class:`Hook`."""
        if self._bar is not None:
            means = {name: f"{value:.3f}" for name, value in progress.means.items()}
            self._bar.set_postfix(means | {"images/s": f"{progress.images_per_second:.0f}"})

    def on_end(self, update: int) -> None:
        """See :class:`Hook`."""
        if self._bar is not None:
            self._bar.close()


class CsvLog(Hook):
    """``log.csv`` and ``evaluations.csv``; a continued run drops the lines of what it does again."""

    def __init__(self, folder: Path) -> None:
        self._log, self._evaluations = folder / "log.csv", folder / "evaluations.csv"

    def on_start(self, update: int, updates: int) -> None:
        """See :class:`Hook`."""
        for path in (self._log, self._evaluations):
            _keep(path, update)

    def on_interval(self, progress: Progress) -> None:
        """See :class:`Hook`."""
        _append(self._log, progress.row)

    def on_evaluation(self, update: int, scores: Mapping[str, float], is_best: bool) -> None:
        """See :class:`Hook`."""
        _keep(self._evaluations, update - 1)  # a run that was ended after it evaluated does so again
        _append(self._evaluations, {"update": update, **scores, "best": int(is_best)})


class TensorBoardLog(Hook):
    """The curves, in ``tensorboard/``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an optional dependency)

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def on_interval(self, progress: Progress) -> None:
        """See :class:`Hook`."""
        for name, value in progress.row.items():
            if name != "update":
                self._writer.add_scalar(f"train/{name}", value, progress.update)

    def on_evaluation(self, update: int, scores: Mapping[str, float], is_best: bool) -> None:
        """See :class:`Hook`."""
        for name, value in scores.items():
            self._writer.add_scalar(f"evaluation/{name}", value, update)

    def on_end(self, update: int) -> None:
        """See :class:`Hook`."""
        self._writer.close()


class Stopwatch:
    """Images a second since it was started or read last."""

    def __init__(self) -> None:
        self._started, self._images, self._updates = time.perf_counter(), 0.0, 0

    def count(self, images: float) -> None:
        """Add an update's images."""
        self._images += images
        self._updates += 1

    def read(self) -> tuple[float, float]:
        """Give images a second and seconds an update, and start anew."""
        seconds = time.perf_counter() - self._started
        result = self._images / seconds, seconds / max(1, self._updates)
        self.__init__()
        return result


def _keep(path: Path, update: int) -> None:
    """Drop the lines after an update."""
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    if rows:  # a full disk leaves a file without a line, or with half of one
        header, *rows = rows
        kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= update]
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])
        partial.replace(path)


def _append(path: Path, row: Mapping[str, float]) -> None:
    is_new = not path.exists() or not path.stat().st_size
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds) % 60:02d} s"
