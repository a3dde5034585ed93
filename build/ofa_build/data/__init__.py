"""Captioned images, in the formats in which people have them."""

from .records import BadRecords, DataError, Record
from .sources import open_data

__all__ = ["BadRecords", "DataError", "Record", "open_data"]
