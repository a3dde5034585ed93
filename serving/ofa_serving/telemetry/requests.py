"""A log line of each request at each stage, all with the request's id."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from enum import StrEnum

from ..metrics import OK, canary_requests
from .logs import FIELDS

REQUESTS_VARIABLE = "OFA_REQUEST_LOG"
"""Environment variable by which the launcher tells the models which requests to log."""


class RequestLogMode(StrEnum):
    """Which requests get lines."""

    NONE = "none"
    REFUSED = "refused"
    ALL = "all"


class RequestLog:
    """Of one model. Its methods may be called from any thread."""

    def __init__(self, model: str, environ: Mapping[str, str] = os.environ) -> None:
        self._model, self._probes = model, canary_requests(environ)
        self._mode = RequestLogMode(environ.get(REQUESTS_VARIABLE) or RequestLogMode.NONE)
        self._logger = logging.getLogger("ofa.request")

    @property
    def every_stage(self) -> bool:
        """Whether the stages log as well; to be asked before fields are gathered."""
        return self._mode is RequestLogMode.ALL

    def answered(self, request_id: str, code: str, seconds: float, **fields: object) -> None:
        """Logs an answer: ``OK`` or a refusal's code. A probe that went well is not worth a line."""
        unwanted = self._mode is RequestLogMode.NONE or (self._mode is RequestLogMode.REFUSED and code == OK)
        if unwanted or (request_id in self._probes and code == OK):
            return
        self._write("answered", request_id, code=code, seconds=round(seconds, 4), **fields)

    def stage(self, event: str, request_id: str, **fields: object) -> None:
        """Logs what a stage did for a request."""
        if self.every_stage and request_id not in self._probes:
            self._write(event, request_id, **fields)

    def _write(self, event: str, request_id: str, **fields: object) -> None:
        known = {"request_id": request_id, "model": self._model}
        self._logger.info(event, extra={FIELDS: known | fields})
