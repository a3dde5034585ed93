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
OPENMOJI = ArtSource("openmoji", "npm", "openmoji", "17.0.0", "CC-BY-SA-4.0", "OpenMoji, HfG Schwaebisch Gmuend")

SOURCES = {source.style: source for source in (NOTO, FLUENT, TWEMOJI, OPENMOJI)}
TRAINING_STYLES = ("noto", "fluent", "twemoji")
HELD_OUT_STYLES = ("openmoji",)
"""A style no training scene shows: how far a checkpoint reads drawings by a hand it never saw."""
