"""What is read of an image file without decoding it: the parts that would make decoding it costly."""

from __future__ import annotations

import re
import struct

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"

_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG_ORIENTATION_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")

# A marker that begins a segment: not a stuffed or padding byte, and neither RSTn nor TEM, which carry no length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA


def png_without_metadata(data: bytes) -> bytes:
    """Drop a PNG file's colour profile and texts, except the two texts that can hold an orientation.

    They do not change a caption, and a few kilobytes of them can be compressed to say gigabytes. Whatever follows a
    chunk that is cut short is kept as it is, for the decoder to judge.
    """
    kept = [PNG_SIGNATURE]
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        is_orientation = data.startswith(_PNG_ORIENTATION_KEYWORDS, position + 8)
        if end > len(data):
            break
        if kind != b"iCCP" and (kind not in _PNG_TEXT or is_orientation):
            kept.append(data[position:end])
        position = end
    kept.append(data[position:])
    return b"".join(kept)


def jpeg_scans(data: bytes, at_most: int) -> int:
    """Count the scans of a JPEG file up to its end marker, and no further than ``at_most`` + 1.

    Each scan of a progressive file is a pass over the whole picture, and takes as little as 42 bytes to ask for.
    """
    scans = 0
    position = len(JPEG_SIGNATURE) - 1
    while scans <= at_most and (marker := _JPEG_MARKER.search(data, position)):
        kind = data[marker.start() + 1]
        if kind == _JPEG_END:
            break
        scans += kind == _JPEG_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans
