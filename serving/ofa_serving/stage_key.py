"""The stages answer to the public model alone: a client that called one by its name would pass admission by.

The launcher draws a key for each run of the server, and the processes of all models inherit it. The encoder is apart:
where Triton's own backend serves it, nothing of ours can look at its requests.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

from .contract import CaptionError, Code

KEY_VARIABLE = "OFA_STAGE_KEY"
"""Environment variable with the key; without it, in a server that no launcher started, every caller is let in."""

KEY_PARAMETER = "stage_key"
"""The parameter that carries the key in the public model's calls."""


class StageKey:
    """The key of this run of the server."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._key = environ.get(KEY_VARIABLE, "")

    @property
    def parameters(self) -> dict[str, str]:
        """What the public model adds to the parameters of its calls."""
        return {KEY_PARAMETER: self._key} if self._key else {}

    def demand(self, parameters: dict[str, Any]) -> None:
        """Takes the key out of a call's parameters.

        Raises:
            CaptionError: INVALID_PARAMETER; the call is not the public model's.
        """
        given = str(parameters.pop(KEY_PARAMETER, ""))
        if self._key and not secrets.compare_digest(given.encode(), self._key.encode()):
            raise CaptionError(Code.INVALID_PARAMETER, "this model is not for clients; ask for the public one")
