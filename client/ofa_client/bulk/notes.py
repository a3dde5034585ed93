"""A small file beside the captions of a data set: what they depend on, and what was made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ofa_client.bulk.journal import JournalError, sync_folder


class Notes:
    """What a journal's captions depend on, and what was made of them: a small file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one.

        Raises:
            JournalError: it holds something else.
            OSError: it cannot be read.
        """
        self._path = path
        self.settings: dict[str, Any] | None = None
        """Model and options; None for a journal that was begun before they were noted."""

        self.made: list[str] | None = None
        """The digests of the files that may have been made of the journal; None where nothing was noted."""

        if not path.exists():
            return
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            self.settings, self.made = noted["settings"] and dict(noted["settings"]), list(noted["made"])
        except (ValueError, TypeError, LookupError) as error:
            raise JournalError(f"{path} holds something else than the settings of captions") from error

    def differing(self, settings: Mapping[str, Any]) -> list[str]:
        """Say which of the settings are not as they were noted."""
        noted = self.settings or {}
        return [
            f"--{name.replace('_', '-')} was {_shown(noted[name])} and is now {_shown(value)}"
            for name, value in settings.items()
            if name in noted and noted[name] != value
        ]

    def save(self) -> None:
        """Write the file, which a kill or a power failure leaves as it was or makes new.

        Raises:
            OSError: it cannot be written.
        """
        aside = self._path.with_name(f".{self._path.name}.part")
        aside.unlink(missing_ok=True)  # it could be a link to somebody's file
        with aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"settings": self.settings, "made": self.made or []}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)
        sync_folder(self._path)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else str(value)


def digest(path: Path) -> str:
    """Compute what tells a file from any other."""
    made = blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            made.update(block)
    return made.hexdigest()
