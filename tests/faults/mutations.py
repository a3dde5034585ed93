"""Bytes that are nearly right: what a fuzzer makes of good ones, the same each time for a seed."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Those at which arithmetic goes wrong."""


def mutated(data: bytes, rng: Rng) -> bytes:
    """One to six changes, each of any kind and anywhere."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 7)):
        if changed:
            _CHANGES[rng.integers(len(_CHANGES))](changed, rng)
    return bytes(changed)


def _place(data: bytearray, rng: Rng) -> int:
    """Half of them within the first bytes, where headers are."""
    return int(rng.integers(min(len(data), 512) if rng.random() < 0.5 else len(data)))


def _part(data: bytearray, rng: Rng) -> slice:
    start = _place(data, rng)
    return slice(start, start + int(rng.integers(1, 65)))


def _flip_bit(data: bytearray, rng: Rng) -> None:
    data[_place(data, rng)] ^= 1 << rng.integers(8)


def _set_byte(data: bytearray, rng: Rng) -> None:
    data[_place(data, rng)] = int(rng.integers(256))


def _set_number(data: bytearray, rng: Rng) -> None:
    form = ("<I", ">I", "<H", ">H")[rng.integers(4)]
    number = NUMBERS[rng.integers(len(NUMBERS))] & (0xFFFF if "H" in form else 0xFFFFFFFF)
    packed = struct.pack(form, number)
    place = _place(data, rng)
    data[place : place + len(packed)] = packed


def _cut(data: bytearray, rng: Rng) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: Rng) -> None:
    del data[_part(data, rng)]


def _repeat(data: bytearray, rng: Rng) -> None:
    part = data[_part(data, rng)]
    place = _place(data, rng)
    data[place:place] = part * int(rng.integers(1, 9))


def _insert(data: bytearray, rng: Rng) -> None:
    place = _place(data, rng)
    data[place:place] = rng.bytes(int(rng.integers(1, 33)))


_CHANGES: tuple[Callable[[bytearray, Rng], None], ...] = (
    _flip_bit,
    _set_byte,
    _set_number,
    _cut,
    _remove,
    _repeat,
    _insert,
)
