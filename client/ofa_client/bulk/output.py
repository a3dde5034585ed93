"""Where captions and failures go: lines for a reader, or a file that a later run goes on with."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ofa_client.bulk.formats import convert, format_of
from ofa_client.bulk.journal import Journal, read_records
from ofa_client.bulk.keys import KeySet
from ofa_client.bulk.progress import Progress, offer
from ofa_client.bulk.shard import Shard
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
        return cls(path, file_format, journal, shard.name(errors) if errors else beside)

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

    def __init__(self, files: OutputFiles, retry_failed: bool = False) -> None:
        """Open the files, or make them; ``retry_failed`` forgets the failures of earlier runs.

        Raises:
            JournalError, OSError: a file that cannot be used.
        """
        self._files = files
        self._done = KeySet()
        self._met = KeySet()
        self._journal = Journal(files.journal, self._done)
        try:
            self._errors = Journal(files.errors, KeySet() if retry_failed else self._done)
        except BaseException:
            self._journal.close()
            raise
        if retry_failed:
            self._errors.clear()
        self._progress = Progress(sys.stderr, already=self._journal.records + self._errors.records)

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
            convert(read_records(self._files.journal), self._files.path, self._files.format)

    def close(self) -> None:
        """See :class:`Output`."""
        try:
            self._progress.close()
        finally:
            try:
                self._journal.close()
            finally:
                self._errors.close()


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
