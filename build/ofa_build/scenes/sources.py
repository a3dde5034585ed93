"""Fetches the art packages through the ordinary package clients into a cache folder, at pinned versions.

Weights are what the project ships; the packages themselves are only read while a checkpoint is trained.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

CACHE = Path(".cache") / "scenes"


@dataclass(frozen=True)
class ArtSource:
    """One style of drawing: where its package comes from and under which licence the art stands."""

    style: str
    client: str
    package: str
    version: str
    licence: str
    attribution: str
    lacks: frozenset[str] = frozenset()
    """Labels of the objects that the style does not draw: they are younger than it."""

    def fetch(self, cache: Path = CACHE) -> Path:
        """Download and unpack the package on first use, and give its folder.

        Raises ``RuntimeError`` when the package client is missing or fails.
        """
        folder = cache / "packages" / f"{self.style}-{self.version.replace('/', '_')}"
        if not folder.exists():
            logger.info("fetching %s %s", self.package, self.version)
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _CLIENTS[self.client](self, partial)
            partial.rename(folder)
        return folder


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is needed to fetch the scene art") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)} failed: {error.stderr.strip()[-500:]}") from error


def _fetch_npm(source: ArtSource, folder: Path) -> None:
    _run(["npm", "pack", "--silent", f"{source.package}@{source.version}"], folder)
    archive = next(folder.glob("*.tgz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def _fetch_debian(source: ArtSource, folder: Path) -> None:
    _run(["apt-get", "download", f"{source.package}={source.version}"], folder)
    archive = next(folder.glob("*.deb"))
    _run(["dpkg-deb", "-x", archive.name, "."], folder)
    archive.unlink()


_CLIENTS = {"npm": _fetch_npm, "debian": _fetch_debian}

NOTO = ArtSource("noto", "debian", "fonts-noto-color-emoji", "2.042-0+deb12u1", "OFL-1.1", "Noto Color Emoji, Google")
FLUENT = ArtSource(
    "fluent", "npm", "@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "Fluent Emoji, Microsoft, packaged by LobeHub"
)
TWEMOJI = ArtSource(
    "twemoji", "npm", "@discordapp/twemoji", "16.0.1", "CC-BY-4.0", "Twemoji, Twitter and jdecked's contributors"
)
FLUENT_FLAT = ArtSource(
    "fluent-flat", "npm", "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT",
    "Fluent Emoji, Microsoft, packaged by Iconify",
)  # fmt: skip
_OF_2018 = frozenset(
    {"cupcake", "chair"}
    | {f"{colour} heart" for colour in ("orange", "brown", "white")}
    | {f"{colour} circle" for colour in ("orange", "yellow", "green", "purple", "brown")}
    | {f"{colour} square" for colour in ("red", "orange", "yellow", "green", "blue", "purple", "brown")}
)
BLOB = ArtSource(
    "blob", "npm", "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji of 2018, Google, packaged by Iconify",
    _OF_2018,
)  # fmt: skip
EMOJIONE = ArtSource(
    "emojione", "npm", "@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "EmojiOne 2, packaged by Iconify",
    _OF_2018 | {"robot"},
)  # fmt: skip
OPENMOJI = ArtSource("openmoji", "npm", "openmoji", "17.0.0", "CC-BY-SA-4.0", "OpenMoji, HfG Schwaebisch Gmuend")

SOURCES = {source.style: source for source in (NOTO, FLUENT, TWEMOJI, FLUENT_FLAT, BLOB, EMOJIONE, OPENMOJI)}
TRAINING_STYLES = ("noto", "fluent", "twemoji")
HELD_OUT_STYLES = ("fluent-flat", "blob", "emojione", "openmoji")
"""Styles that no training scene shows: how far a checkpoint reads drawings by a hand it never saw. The first draws what
``fluent`` models, flat; the last, in outlines and with few colours, is unlike all others."""
