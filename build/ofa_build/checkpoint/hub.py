"""Checkpoints named on a hub, fetched with the hub's own library into its cache."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

from ofa_serving.tokenizer import VOCABULARY_FILES

from .files import WEIGHT_FILES
from .types import CheckpointError

_NAME = re.compile(
    r"(?:(modelscope|huggingface):)?((?!\.)[\w.-]+/(?!\.)[\w.-]+)(?<!\.pt)(?<!\.bin)(?<!\.safetensors)", re.ASCII
)
"""What begins with a dot or ends as a file of weights does is a path that is mistyped."""

_HUGGING_FACE_OWNERS = ("OFA-Sys",)

_SHARD = "-{0}-of-{0}".format("[0-9]" * 5)
_FILES = [
    *("config.json", "configuration.json", "tokenizer_config.json"),
    *(name for names in VOCABULARY_FILES.values() for name in names),
    *WEIGHT_FILES,
    *(f"model{_SHARD}.safetensors", f"pytorch_model{_SHARD}.bin"),
]
"""What a checkpoint consists of, and no pattern that a path matches: not every library keeps one that a hub lists as
``../../x.json`` inside its cache.
"""

_UNKNOWN = (401, 404)
"""The status codes by which a hub says that it does not have a model, or does not say whether it does."""

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
    except Exception as error:  # each library has its own kinds, and those of what it uses for HTTP
        why = _reason(error)
        raise CheckpointError(
            f"there is no directory {source}, and it could not be fetched from {hub}: {why}"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"its library is not installed: {error.name}"
    causes = list(_causes(error))
    if any(isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) for cause in causes):
        return "the hub does not answer"
    if any(getattr(getattr(cause, "response", None), "status_code", None) in _UNKNOWN for cause in causes):
        return "the hub has no such model that everyone may read"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:_SHOWN]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _from_hugging_face(name: str) -> str:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (an optional dependency)

    return snapshot_download(name, allow_patterns=_FILES)


def _from_modelscope(name: str) -> str:
    from modelscope.hub.snapshot_download import snapshot_download  # noqa: PLC0415  (an optional dependency)

    return snapshot_download(name, allow_patterns=_FILES)
