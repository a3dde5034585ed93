"""The one training loop. It knows nothing of captions: an objective turns batches into terms of a loss."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import accelerate
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from ofa_serving.signals import ending
from torch import Tensor, nn

from .hooks import Hook, Progress, Stopwatch
from .objectives import Terms
from .recipe import PRECISIONS, Recipe, RecipeError
from .work_folder import RunError, WorkFolder

Scores = Mapping[str, float]

_ONE_SIGNAL = 10.0
"""Seconds in which further signals are the first one's echo: torchrun passes on what its processes get as well."""


class Interrupted(RunError):
    """The run was told to stop, and has saved its state.

    Attributes:
        signal_number: what told it; SIGTERM if that was another of its processes.

    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class BatchSource(Protocol):
    """Where a run's batches come from."""

    def updates(self, first: int, last: int) -> Iterator[list[Any]]:
        """Give this process's batches of each update, from number ``first`` to ``last`` (not included)."""


def make_accelerator(recipe: Recipe) -> accelerate.Accelerator:
    """Find the device and the other processes (torchrun's), and set the precision up.

    Raises:
        RecipeError: if the device cannot compute in the precision.

    """
    has_gpu = torch.cuda.is_available()
    if recipe.precision == "fp16" and not has_gpu:
        raise RecipeError("precision fp16 needs a GPU; bf16 works on both")
    # The library remembers the precision of an earlier run in this process and refuses another one.
    AcceleratorState._reset_state()
    return accelerate.Accelerator(mixed_precision=PRECISIONS[recipe.precision], cpu=not has_gpu)


class Trainer:
    """Runs an objective to its last update, saving, evaluating and continuing on the way.

    Args:
        objective: a module, see :class:`~.objectives.Objective`.
        batches: the data, of which this process gets its share.
        updates: how many to do.
        updates_per_epoch: to evaluate at an epoch's end; None for a stream.
        recipe: the numbers.
        accelerator: of :func:`make_accelerator`.
        work: where the run is kept.
        write: writes the model as a checkpoint into a folder.
        set_training: puts the objective into training mode.
        evaluate: gives scores; the first one says which checkpoint is best. Every process calls it.
        hooks: what watches, in the main process.

    """

    def __init__(
        self,
        objective: nn.Module,
        batches: BatchSource,
        updates: int,
        updates_per_epoch: int | None,
        recipe: Recipe,
        accelerator: accelerate.Accelerator,
        work: WorkFolder,
        write: Callable[[Path], None],
        set_training: Callable[[], None],
        evaluate: Callable[[], Scores] | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.objective, self.batches, self.recipe, self.work = objective, batches, recipe, work
        self.updates, self.updates_per_epoch = updates, updates_per_epoch
        self.accelerator, self.hooks = accelerator, hooks if accelerator.is_main_process else ()
        self.update = 0
        self.best: Scores = {}
        self._judged: set[int] = set()
        self._write, self._set_training, self._evaluate = write, set_training, evaluate
        objective.to(accelerator.device)
        self._parameters = [weight for weight in objective.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            self._parameters,
            lr=recipe.learning_rate,
            betas=recipe.adam_betas,
            eps=recipe.adam_epsilon,
            weight_decay=recipe.weight_decay,
            fused=True,  # a quarter of the time that the plain loop over tensors takes
        )
        self._resume(optimizer)
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        self._compute, self._optimizer = accelerator.prepare(objective, optimizer)
        self._sums: dict[str, float] = defaultdict(float)
        self._stop, self._told_by = threading.Event(), int(signal.SIGTERM)

    def run(self) -> None:
        """Train.

        Raises:
            Interrupted: after a signal; the state is saved.
            RunError: if the loss is no number any more, or something cannot be saved.

        """
        self._tell("on_start", self.update, self.updates)
        watch = Stopwatch()
        self._set_training()
        with self._signals():
            try:
                if self._is_to_be_judged() and self.update < self.updates:  # the run before was ended first
                    self._judge()
                for batches in self.batches.updates(self.update, self.updates):
                    watch.count(self._train_on(batches))
                    self.update += 1
                    self._tell("on_update", self.update)
                    self._after_update(watch)
                self._finish()
            finally:
                self._tell("on_end", self.update)

    def _after_update(self, watch: Stopwatch) -> None:
        update, recipe = self.update, self.recipe
        is_told_to_stop = self._told_to_stop()
        if update % recipe.log_every == 0 or update == self.updates:
            self._report(watch)
        if update == self.updates:
            return
        # Saved before it is evaluated: an evaluation that fails or takes long is to cost nothing that was learned.
        if update % recipe.save_every == 0 or is_told_to_stop or self._is_to_be_judged():
            self._save()
        if is_told_to_stop:
            message = f"stopped after update {update} of {self.updates}; the same command continues"
            raise Interrupted(message, self._told_by)
        if self._is_to_be_judged():
            self._judge()
            watch.read()

    def _is_to_be_judged(self) -> bool:
        period = self.recipe.evaluate_every or self.updates_per_epoch
        is_due = period and self.update and self.update % period == 0
        return bool(self._evaluate and is_due and self.update not in self._judged)

    def _told_to_stop(self) -> bool:
        """Tell whether any process was: all of them then stop after the same update."""
        told = torch.tensor(float(self._stop.is_set()), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told) > 0)

    def _finish(self) -> None:
        self._save()
        if self._evaluate and self.update not in self._judged:
            self._judge()
            self._save()

    def _train_on(self, batches: Sequence[Any]) -> float:
        """Do one update; gives its images, over all processes."""
        process = self.accelerator.process_index
        torch.manual_seed(hash((self.recipe.seed, self.update, process)) & 0x7FFFFFFF)
        rate = self.recipe.learning_rate_at(self.update, self.updates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self.accelerator.num_processes == 1:  # several take their steps together, with or without examples
            batches = [batch for batch in batches if batch.images]
        batches = [batch.to(self.accelerator.device) for batch in batches]
        units = self._count(batches)
        if not units["token"] and not units["image"]:
            return 0.0
        self._optimizer.zero_grad()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.accelerator.device))
        for number, batch in enumerate(batches):
            is_last = number + 1 == len(batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self._compute):
                terms = self._compute(batch, self.update)
                # The processes' gradients are averaged, and each term is divided by the units of all of them.
                self.accelerator.backward(_total(terms, units) * self.accelerator.num_processes)
            for name, term in terms.items():
                sums[name] += term.value.detach() / max(1.0, units[term.per])
        norm = self.accelerator.clip_grad_norm_(self._parameters, self.recipe.clip_norm or float("inf"))
        self._check(sums, norm)
        self._optimizer.step()
        self._remember(sums, norm)
        return units["image"]

    def _count(self, batches: Sequence[Any]) -> dict[str, float]:
        """Count the update's units over all processes."""
        counts = torch.zeros(2, dtype=torch.float64)
        for batch in batches:
            units = self.objective.units(batch, self.update)
            counts += torch.tensor([units["token"], units["image"]], dtype=torch.float64)
        counts = self.accelerator.reduce(counts.to(self.accelerator.device))
        return {"token": float(counts[0]), "image": float(counts[1])}

    def _check(self, sums: Mapping[str, Tensor], norm: Tensor) -> None:
        # In fp16 a gradient may overflow: the scaler then leaves the update out and lowers its scale.
        checked = sums.values() if self.recipe.precision == "fp16" else (*sums.values(), norm)
        if not all(torch.isfinite(value) for value in checked):
            raise self._diverged("the loss or its gradient", self.update + 1)

    def _diverged(self, what: str, update: int) -> RunError:
        return RunError(
            f"{what} is no number at update {update}: lower the learning rate; what was saved before is intact"
        )

    def _remember(self, sums: Mapping[str, Tensor], norm: Tensor) -> None:
        names = list(sums)
        values = self.accelerator.reduce(torch.stack([sums[name] for name in names]))
        for name, value in zip(names, values.tolist(), strict=True):
            self._sums[name] += value
        is_number = bool(torch.isfinite(norm))
        self._sums["gradient_norm"] += float(norm) if is_number else 0.0
        self._sums["norms"] += is_number
        self._sums["updates"] += 1

    def _report(self, watch: Stopwatch) -> None:
        count, norms = self._sums.pop("updates", 0), self._sums.pop("norms", 0)
        means = {name: value / count for name, value in self._sums.items()} if count else {}
        if count:
            means["gradient_norm"] = self._sums["gradient_norm"] / norms if norms else float("nan")
        self._sums.clear()
        speed, seconds = watch.read()
        epoch = self.update / self.updates_per_epoch if self.updates_per_epoch else 0.0
        rate, left = self._optimizer.param_groups[0]["lr"], seconds * (self.updates - self.update)
        self._tell("on_interval", Progress(self.update, self.updates, epoch, means, rate, speed, left))

    def _judge(self) -> None:
        self.objective.eval()
        scores = self._evaluate()
        self._judged.add(self.update)
        is_best = not self.best or _first(scores) > _first(self.best)
        if is_best:
            self.best = scores
        self._tell("on_evaluation", self.update, scores, is_best)
        self._save_checkpoint(is_best)
        self._set_training()

    def _save(self) -> None:
        if not all(weight.isfinite().all() for weight in self._parameters):  # no later loss tells of the last update
            raise self._diverged("a weight", self.update)
        state = {
            "update": self.update,
            "best": dict(self.best),
            "judged": sorted(self._judged),
            "objective": self.objective.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        if self.accelerator.is_main_process:
            self.work.save_state(state)
        self._save_checkpoint(is_best=self._evaluate is None)

    def _save_checkpoint(self, is_best: bool) -> None:
        if self.accelerator.is_main_process:
            folder, is_new = self.work.save_checkpoint(self.update, self._write, is_best, self.recipe.keep)
            if is_new:
                self._tell("on_save", self.update, folder)
        self.accelerator.wait_for_everyone()

    def _resume(self, optimizer: torch.optim.Optimizer) -> None:
        state = self.work.load_state()
        found = gather_object([state["update"] if state else 0])
        if len(set(found)) > 1:
            raise RunError(
                f"the processes find {self.work.path} at different updates ({min(found)} and {max(found)}): "
                "it must be one folder that all nodes share"
            )
        if state is None:
            return
        if state["update"] > self.updates:
            raise RunError(f"{self.work.path} is already at update {state['update']} of {self.updates}")
        self.objective.load_state_dict(state["objective"])
        # On a CPU the optimizer keeps these very tensors, which are parts of a file that is soon replaced.
        on_cpu = self.accelerator.device.type == "cpu"
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]) if on_cpu else state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.update, self.best, self._judged = state["update"], state["best"], set(state["judged"])

    def _tell(self, event: str, *arguments: Any) -> None:
        for hook in self.hooks:
            getattr(hook, event)(*arguments)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let a signal end the run after the update at hand; one that comes later still ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        first = None

        def stop(number: int, _frame: FrameType | None) -> None:
            nonlocal first
            self._told_by = self._told_by if first else number
            self._stop.set()
            now = time.monotonic()
            first = first or now
            if now - first > _ONE_SIGNAL:
                signal.signal(number, before[number])
                signal.raise_signal(number)

        before = {number: signal.signal(number, stop) for number in ending()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _first(scores: Scores) -> float:
    return next(iter(scores.values()))


def _total(terms: Terms, units: Mapping[str, float]) -> Tensor:
    return sum(term.weight * term.value / max(1.0, units[term.per]) for term in terms.values() if term.weight)
