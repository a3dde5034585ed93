"""The keys of the images that are done: millions of them in 16 bytes each."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

_DIGEST = 16
_MERGE_AT = 1 << 16


class KeySet:
    """A set of strings that keeps only their 128-bit hashes."""

    def __init__(self) -> None:
        self._high = np.empty(0, np.uint64)  # sorted
        self._low = np.empty(0, np.uint64)
        self._recent: set[bytes] = set()

    def add(self, key: str) -> bool:
        """Add a key; returns whether it is new."""
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
        if digest in self._recent or self._has(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) >= _MERGE_AT:
            self._merge()
        return True

    def _has(self, digest: bytes) -> bool:
        """Find the first half by bisection; its few equals are compared in full."""
        high, low = np.frombuffer(digest, np.uint64)
        begin = np.searchsorted(self._high, high, "left")
        end = np.searchsorted(self._high, high, "right")
        return bool((self._low[begin:end] == low).any())

    def _merge(self) -> None:
        recent = np.frombuffer(b"".join(self._recent), np.uint64).reshape(-1, 2)
        high = np.concatenate([self._high, recent[:, 0]])
        order = np.argsort(high)
        self._high, self._low = high[order], np.concatenate([self._low, recent[:, 1]])[order]
        self._recent.clear()
