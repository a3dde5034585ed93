"""A run's folder: the state to continue from and the checkpoints it leaves, each whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .recipe import Recipe

_BEFORE = {"stream_order": 1}
"""What holds of a run that did not write it down."""


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why, and what is left of it."""


def make_folder(path: Path) -> None:
    """Make a folder of a run, if it is not there.

    Raises:
        RunError: if that cannot be.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {path} cannot be made: {error.strerror}") from error


class WorkFolder:
    """Layout: ``state.pt``, ``recipe.json``, ``checkpoints/update-N/``, and the links ``last`` and ``best``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state, self._checkpoints = path / "state.pt", path / "checkpoints"
        self._written: set[Path] = set()

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The checkpoint with the best score."""
        return self.path / "best"

    def begin(self, recipe: Recipe, about: dict[str, Any]) -> None:
        """Make the folder, or check that the run in it is this one.

        Raises:
            RunError: naming what differs.

        """
        make_folder(self.path)
        path, wanted = self.path / "recipe.json", {**about, **recipe.identity()}
        if not self._state.exists():
            path.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            return
        known = _BEFORE | json.loads(path.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if known.get(name, value) != value:  # a run of an earlier version did not write everything down
                raise RunError(
                    f"{self.path} holds a run with {name} {known[name]!r}, not {value!r}: name another folder"
                )

    def load_state(self) -> dict[str, Any] | None:
        """Read the state that was saved last, if any; its tensors are read from the file as they are used."""
        if not self._state.exists():
            return None
        try:
            return torch.load(self._state, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a damaged archive raises many kinds
            raise RunError(f"{self._state} is damaged; remove it to start anew") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Put a state in the place of the one before.

        Raises:
            RunError: if it cannot be written; the one before is then still there.

        """
        partial = self._state.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._state)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise self._not_saved("the state", state["update"], error) from error

    def save_checkpoint(
        self, update: int, write: Callable[[Path], None], is_best: bool, keep: int
    ) -> tuple[Path, bool]:
        """Write a checkpoint, point ``last`` (and ``best``) to it, and remove old ones.

        Returns:
            Its folder, and whether it was written now: this run may have saved this update already.

        Raises:
            RunError: if it cannot be written; ``last`` and ``best`` are then what they were.

        """
        folder = self._checkpoints / f"update-{update:08d}"
        is_new = folder not in self._written
        if is_new:
            partial, before = folder.with_suffix(".partial"), folder.with_suffix(".before")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                write(partial)
                if folder.exists():  # of a run that ended before it saved its state: not what this one has learned
                    shutil.rmtree(before, ignore_errors=True)
                    folder.rename(before)
                partial.rename(folder)
                shutil.rmtree(before, ignore_errors=True)
            except (OSError, RuntimeError) as error:
                shutil.rmtree(partial, ignore_errors=True)
                raise self._not_saved("the checkpoint", update, error) from error
            self._written.add(folder)
        self._link(self.last, folder)
        if is_best:
            self._link(self.best, folder)
        self._prune(keep)
        return folder, is_new

    def _link(self, link: Path, folder: Path) -> None:
        partial = link.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.symlink_to(folder.relative_to(self.path), target_is_directory=True)
        partial.replace(link)

    def _prune(self, keep: int) -> None:
        kept = {link.resolve() for link in (self.last, self.best) if link.exists()}
        folders = sorted(folder for folder in self._checkpoints.iterdir() if not folder.suffix)
        for folder in folders[:-keep]:
            if folder.resolve() not in kept:
                shutil.rmtree(folder)

    def _not_saved(self, what: str, update: int, error: Exception) -> RunError:
        cause = error if isinstance(error, OSError) else error.__context__
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).splitlines()[0]
        left = "what was saved before is intact" if self._state.exists() else "nothing was saved before"
        return RunError(f"{what} of update {update} could not be saved ({why}); {left}")
