"""What is read of an image file without decoding it: the parts that would make decoding it costly."""

from __future__ import annotations

import io
import re
import struct

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG_ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_PNG_CHUNKS = 50_000
"""A row of the tallest picture in each chunk, and more."""

# A marker that begins a segment: not a stuffed or padding byte, and neither RSTn nor TEM, which carry no length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_HEADER_MARKER = re.compile(rb"\xff[^\x00\xff]")
_JPEG_END, _JPEG_SCAN, _JPEG_COMMENT = 0xD9, 0xDA, 0xFE
_JPEG_BARE = frozenset((*range(0xD0, 0xDA), 0xC8, *range(0xF0, 0xFE)))
"""Markers after which Pillow reads no length."""
_JPEG_APPLICATIONS = range(0xE1, 0xF0)
_JPEG_EXIF = b"Exif\0\0"
_JPEG_KEPT = (_JPEG_EXIF, b"http://ns.adobe.com/xap/1.0/\0", b"Adobe")
"""What the applications' segments begin with that can turn a picture or name its colours."""
_JPEG_SEGMENTS, _JPEG_EXIF_SEGMENTS = 1000, 16
"""20 MiB of full segments are 320; and Pillow copies all EXIF that it has at each segment of more."""

_READS = 10_000
"""Of a header. Pillow takes it apart in Python, a few bytes at a time."""


class ScatteredError(ValueError):
    """A file of so many parts that looking at each would be the work of seconds."""


class Header(io.BytesIO):
    """A file whose header is read in a bounded number of pieces; ``patience`` is set aside once it is open."""

    patience: float = _READS

    def read(self, size: int | None = -1, /) -> bytes:
        """See :meth:`io.BytesIO.read`.

        Raises:
            ScatteredError: at one piece too many.
        """
        self.patience -= 1
        if self.patience < 0:
            raise ScatteredError
        return super().read(size)

    def rest(self) -> int:
        """How many bytes were not read."""
        return len(self.getbuffer()) - self.tell()


def without_metadata(data: bytes) -> bytes:
    """Drop what does not change a caption from a PNG or JPEG file, and may be costly to read; see below.

    Raises:
        ScatteredError: it has too many parts.
    """
    if data.startswith(PNG_SIGNATURE):
        return png_without_metadata(data)
    if data.startswith(JPEG_SIGNATURE):
        return jpeg_without_metadata(data)
    return data


def png_without_metadata(data: bytes) -> bytes:
    """Drop all of a PNG file but the picture, its colours and what can hold an orientation.

    A few kilobytes of a profile or a text can be compressed to say gigabytes. Whatever follows a chunk that is cut
    short is kept as it is, for the decoder to judge.
    """
    kept = [PNG_SIGNATURE]
    position = len(PNG_SIGNATURE)
    for _ in range(_PNG_CHUNKS):
        if position + 12 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        holds_orientation = kind in _PNG_TEXT and data.startswith(_PNG_ORIENTATION_KEYWORDS, position + 8)
        if kind in _PNG_KEPT or holds_orientation:
            kept.append(data[position:end])
        position = end
        if kind == b"IEND":
            break
    else:
        raise ScatteredError
    kept.append(data[position:])
    return b"".join(kept)


def jpeg_without_metadata(data: bytes) -> bytes:
    """Drop the comments and applications' segments before a JPEG file's first scan, and the padding between segments.

    EXIF and XMP, which can hold an orientation, and Adobe's colours stay. Whatever follows a segment that is cut short
    is kept as it is, for the decoder to judge.
    """
    kept = [JPEG_SIGNATURE[:2]]
    position = len(kept[0])
    exif_left = _JPEG_EXIF_SEGMENTS
    for _ in range(_JPEG_SEGMENTS):
        marker = _JPEG_HEADER_MARKER.search(data, position)
        if not marker:
            break
        kind, start = data[marker.end() - 1], marker.end()
        end = start if kind in _JPEG_BARE else start + max(int.from_bytes(data[start : start + 2]), 2)
        if kind == _JPEG_SCAN or end > len(data):
            position = marker.start()
            break
        is_metadata = kind == _JPEG_COMMENT or kind in _JPEG_APPLICATIONS
        exif_left -= data.startswith(_JPEG_EXIF, start + 2)
        if not is_metadata or data.startswith(_JPEG_KEPT, start + 2):
            kept.append(data[marker.start() : end])
        position = end
        if exif_left < 0:
            raise ScatteredError
    else:
        raise ScatteredError
    kept.append(data[position:])
    return b"".join(kept)


def jpeg_scans(data: bytes, at_most: int) -> int:
    """Count the scans of a JPEG file up to its end marker, and no further than ``at_most`` + 1.

    Each scan of a progressive file is a pass over the whole picture, and takes as little as 42 bytes to ask for.

    Raises:
        ScatteredError: the file is made of too many segments.
    """
    scans = 0
    position = len(JPEG_SIGNATURE) - 1
    for _ in range(2 * _JPEG_SEGMENTS):
        marker = _JPEG_MARKER.search(data, position)
        if marker is None or data[marker.start() + 1] == _JPEG_END or scans > at_most:
            return scans
        scans += data[marker.start() + 1] == _JPEG_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    raise ScatteredError
