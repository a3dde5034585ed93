"""Checkpoints named on a hub, fetched with the hub's own library into its cache."""

from __future__ import annotations

import re
from pathlib import Path

from .types import CheckpointError

_NAME = re.compile(r"(?:(modelscope|huggingface):)?([\w.-]+/[\w.-]+)", re.ASCII)
_HUGGING_FACE_OWNERS = ("OFA-Sys",)
_FILES = ["*.json", "*.txt", "*.bin", "*.safetensors"]
"""What a checkpoint consists of; pictures and documentation stay on the hub."""

_SHOWN = 160
"""Characters of a library's own message that ours repeats."""


def is_hub_name(source: str) -> bool:
    """Tell whether ``source`` reads as ``owner/name``, possibly behind ``modelscope:`` or ``huggingface:``."""
    return _NAME.fullmatch(source) is not None


def fetch(source: str) -> Path:
    """Fetch a checkpoint and give its folder in the library's cache.

    Names of OFA's own organisation on Hugging Face are looked for there, all others on ModelScope, unless a prefix
    says which it is.

    Raises:
        CheckpointError: if the library is not installed, or the hub does not have the checkpoint or does not answer.

    """
    hub, name = _NAME.fullmatch(source).groups()
    hub = hub or ("huggingface" if name.split("/")[0] in _HUGGING_FACE_OWNERS else "modelscope")
    try:
        return Path(_from_hugging_face(name) if hub == "huggingface" else _from_modelscope(name))
    except ImportError as error:
        raise CheckpointError(f"{name} is fetched with a library that is not installed: {error.name}") from error
    except Exception as error:  # each library has its own kinds, and those of what it uses for HTTP
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{name} could not be fetched from {hub}: {reason[:_SHOWN]}") from error


def _from_hugging_face(name: str) -> str:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (an optional dependency)

    return snapshot_download(name, allow_patterns=_FILES)


def _from_modelscope(name: str) -> str:
    from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415  (an optional dependency)

    return snapshot_download(name, allow_patterns=_FILES)
