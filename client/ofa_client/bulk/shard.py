"""One part of a data set, for as many jobs as there are parts."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``; each image is in exactly one."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.

        Raises:
            ValueError: no two numbers, or ``i`` not from 0 to ``n`` - 1.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        if not numbers or int(numbers[1]) >= int(numbers[2]):
            raise ValueError(f"a shard is i/n with i from 0 to n-1, such as 0/8, not {text!r}")
        return cls(int(numbers[1]), int(numbers[2]))

    def takes(self, key: str) -> bool:
        """Tell whether an image of this key is in the part, whatever other images there are."""
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % self.count == self.index

    def takes_number(self, number: int) -> bool:
        """Tell whether the archive or row group of this number is in the part: those are read as a whole."""
        return number % self.count == self.index

    def name(self, path: Path) -> Path:
        """Give the part a file of its own: ``captions.jsonl`` is ``captions-00003-of-00008.jsonl``."""
        if self.count == 1:
            return path
        return path.with_name(f"{path.stem}-{self.index:05d}-of-{self.count:05d}{path.suffix}")
