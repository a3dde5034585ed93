"""Where captions and failures go: lines for a reader, or a file that a later run goes on with."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ofa_client.bulk.formats import convert, format_of, written_aside
from ofa_client.bulk.items import TAKEN_SUFFIXES, is_pattern, matches
from ofa_client.bulk.journal import Journal, JournalError, read_records
from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.notes import Notes, digest
from ofa_client.bulk.progress import Progress, offer
from ofa_client.bulk.shard import Shard
from ofa_client.images import is_url
from ofa_client.results import Caption


class Output(ABC):
    """Takes what becomes of each image."""

    met: int = 0
    """How many images the inputs gave."""

    repeated: int = 0
    """How many images were left out because this run had met their keys before."""

    in_order: bool
    """Whether the images' order matters."""

    @property
    @abstractmethod
    def failures(self) -> int:
        """Images without a caption, an earlier run's included."""

    @abstractmethod
    def wants(self, key: str) -> bool:
        """Tell whether an image that the inputs gave is to be captioned, and count it."""

    @abstractmethod
    def write(self, key: str, captions: Sequence[Caption]) -> None:
        """Take an image's captions."""

    @abstractmethod
    def fail(self, key: str, code: str, message: str) -> None:
        """Take the reason why an image has none: the code, and the sentence behind it."""

    @abstractmethod
    def expect(self, total: int | None) -> None:
        """Learn how many images there are in all, or that it will not be known."""

    @abstractmethod
    def finish(self) -> None:
        """All images are done: make what is made of them together."""

    @abstractmethod
    def close(self) -> None:
        """Close the files; what was written counts."""

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Lines(Output):
    """Captions on standard output in the order given, failures on standard error."""

    in_order = True

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._failures = 0

    @property
    def failures(self) -> int:
        """See :class:`Output`."""
        return self._failures

    def wants(self, key: str) -> bool:
        """Tell that it is, a repeated one as well: whoever named it waits for its line."""
        self.met += 1
        return True

    def write(self, key: str, captions: Sequence[Caption]) -> None:
        """Write at once: whoever reads the pipe sees each image when it is done."""
        if self._json:
            unicode_out = sys.stdout.encoding.lower().replace("-", "") == "utf8"
            lines = [json.dumps(record(key, captions), ensure_ascii=not unicode_out)]
        else:
            lines = [f"{key}: {caption.text}" for caption in captions]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    def fail(self, key: str, code: str, message: str) -> None:
        """Write ``key: CODE: sentence``."""
        self._failures += 1
        offer(sys.stderr, f"{key}: {code}: {message}\n")

    def expect(self, total: int | None) -> None:
        """The lines are not counted."""

    def finish(self) -> None:
        """The lines are written."""

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class OutputFiles:
    """Where a run writes."""

    path: Path
    format: str
    journal: Path
    """The records; the output itself if that is JSON lines, else what it is made from at the end."""

    errors: Path

    notes: Path
    """What the captions depend on, and what was made of them."""

    @classmethod
    def named(cls, path: Path, file_format: str | None, errors: Path | None, shard: Shard) -> OutputFiles:
        """Find the files of an output; a shard's have its number in their names.

        Args:
            path: the output.
            file_format: ``jsonl``, ``csv``, ``parquet`` or ``coco``; None goes by the path's suffix.
            errors: the failures' file; None puts it beside the output.
            shard: the part of the data set.

        Raises:
            ValueError: a format that is not clear.
        """
        file_format = file_format or format_of(path)
        path = shard.name(path)
        journal = path if file_format == "jsonl" else path.with_name(f"{path.name}.journal")
        beside = path.with_name(f"{path.name}.errors.jsonl")
        notes = path.with_name(f"{path.name}.settings.json")
        return cls(path, file_format, journal, shard.name(errors) if errors else beside, notes)

    def check(self, inputs: Sequence[str]) -> None:
        """See that nothing but what this command wrote would be replaced, and nothing of it be read as an input.

        Raises:
            JournalError: it would.
            OSError: a file that cannot be read.
        """
        others = (self.path, self.journal, self.notes, written_aside(self.path))
        if os.path.realpath(self.errors) in map(os.path.realpath, others):
            raise JournalError(f"{self.errors} would hold failures and captions: name another file with --errors")
        _check_inputs((self.path, self.journal, self.errors, self.notes), inputs)
        Notes(self.notes)
        self.check_made()

    def check_made(self) -> None:
        """See that a file which is to be replaced as a whole is one that this command made.

        Raises:
            JournalError: it is not, or has changed since.
            OSError: it cannot be read.
        """
        if self.format == "jsonl" or not self.path.exists():
            return
        if self.path.is_file():
            made = Notes(self.notes).made
            if made is None:  # by a version that noted nothing, whose journal tells
                made = [digest(self.path)] if any(map(_holds_something, (self.journal, self.errors))) else []
            if digest(self.path) in made:
                return
        raise JournalError(f"{self.path} holds something else than this command wrote: move it, or name another file")

    def check_settings(self, settings: Mapping[str, Any], notes: Notes | None = None) -> None:
        """See that the captions so far, if there are any, depend on the same settings.

        Raises:
            JournalError: they depend on others.
        """
        differing = (notes or Notes(self.notes)).differing(settings)
        if differing and self.journal.exists() and any(True for _ in read_records(self.journal)):
            anew = f"another --output, or removing {self.journal}, starts anew"
            raise JournalError(f"{self.journal}: {', '.join(differing)}; {anew}")

    def known(self, retry_failed: bool) -> KeySet:
        """Read which images are done, without opening anything for writing."""
        keys = KeySet()
        for path in [self.journal] if retry_failed else [self.journal, self.errors]:
            if path.exists():
                for made in read_records(path):
                    keys.add(made["image"])
        return keys


class Files(Output):
    """Captions in a file, failures in another; both say what is done when the same command runs again."""

    in_order = False

    def __init__(
        self, files: OutputFiles, retry_failed: bool = False, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Open the files, or make them; ``retry_failed`` forgets the failures of earlier runs.

        Args:
            files: where they are.
            retry_failed: whether to forget.
            settings: what the captions depend on.

        Raises:
            JournalError, OSError: a file that cannot be used, captions that depend on other settings.
        """
        self._files = files
        self._done = KeySet()
        self._met = KeySet()
        self._journal = Journal(files.journal, self._done)
        try:
            self._notes = Notes(files.notes)
            if settings is not None:
                self._note(settings)
            self._errors = Journal(files.errors, KeySet() if retry_failed else self._done, "failures")
        except BaseException:
            self._journal.close()
            raise
        if retry_failed:
            self._errors.clear()
        self._progress = Progress(sys.stderr, already=self._journal.records + self._errors.records)

    def _note(self, settings: Mapping[str, Any]) -> None:
        """Note the settings ahead of the first captions; a journal that was begun without stays so."""
        self._files.check_settings(settings, self._notes)
        if not self._journal.records:
            self._notes.settings = dict(settings)
            self._notes.made = self._made()
            self._notes.save()

    def _made(self, *more: Path) -> list[str]:
        """Compute the digest of what was made earlier, and of what is about to take its place."""
        earlier = [self._files.path] if self._files.format != "jsonl" and self._files.path.exists() else []
        return [digest(path) for path in (*earlier, *more)]

    def _note_made(self, aside: Path) -> None:
        self._notes.made = self._made(aside)
        self._notes.save()

    @property
    def failures(self) -> int:
        """See :class:`Output`."""
        return self._errors.records

    def wants(self, key: str) -> bool:
        """See :class:`Output`; neither what an earlier run did, nor what this one has met."""
        self.met += 1
        if not self._met.add(key):
            self.repeated += 1
            return False
        return self._done.add(key)

    def write(self, key: str, captions: Sequence[Caption]) -> None:
        """See :class:`Output`."""
        self._journal.append(record(key, captions))
        self._progress.add()

    def fail(self, key: str, code: str, message: str) -> None:
        """See :class:`Output`."""
        self._errors.append({"image": key, "code": code, "reason": message})
        self._progress.add(failed=True)

    def expect(self, total: int | None) -> None:
        """See :class:`Output`."""
        self._progress.total = total

    def finish(self) -> None:
        """Make the file of another format than JSON lines."""
        self._journal.sync()
        if self._files.format != "jsonl":
            self._files.check_made()  # it may have come in the meantime
            convert(read_records(self._files.journal), self._files.path, self._files.format, self._note_made)

    def close(self) -> None:
        """See :class:`Output`."""
        try:
            self._progress.close()
        finally:
            try:
                self._journal.close()
            finally:
                self._errors.close()


def _check_inputs(paths: Sequence[Path], inputs: Sequence[str]) -> None:
    """See that no file is an input under any name, and none would be taken for an image below a folder given as one.

    Raises:
        JournalError: one is, or would be.
    """
    there = {found: path for path in paths if (found := _identity(path))}
    taken = [path for path in paths if path.name.lower().endswith(TAKEN_SUFFIXES)]
    for name in _named(inputs):
        if taken and os.path.isdir(name):  # noqa: PTH112
            folder = Path(os.path.realpath(name))
            for path in taken:
                if folder in Path(os.path.realpath(path.parent), path.name).parents:
                    raise JournalError(f"{path} would be taken for an input, being in {name}: name a file elsewhere")
        elif there and (found := _identity(name)) in there:
            raise JournalError(f"{there[found]} is an input as well: name another file, or other inputs")


def _named(inputs: Sequence[str]) -> Iterator[str]:
    """Give the files and folders of a command line, what its patterns match included."""
    for name in inputs:
        if is_url(name) or name == "-":
            continue
        yield from matches(name) if is_pattern(name) else [name]


def _identity(path: Path | str) -> tuple[int, int] | None:
    """Tell a file from others, whatever its names; None where there is none."""
    with suppress(OSError, ValueError):
        found = os.stat(path)  # noqa: PTH116
        return found.st_dev, found.st_ino
    return None


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def record(key: str, captions: Sequence[Caption]) -> dict[str, Any]:
    """Make the contract's JSON object; the details only where they were asked for."""
    made: dict[str, Any] = {"image": key, "captions": [_caption(caption) for caption in captions]}
    if captions[0].timing_ms is not None:
        made["timing_ms"] = captions[0].timing_ms
    return made


def _caption(caption: Caption) -> dict[str, Any]:
    made: dict[str, Any] = {"text": caption.text, "score": caption.score}
    if caption.tokens is not None:
        made.update(tokens=caption.tokens, token_logprobs=caption.token_logprobs)
    return made
