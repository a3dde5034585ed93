"""What the Python models share: reading their configuration, and answering with errors in the contract's words."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import triton_python_backend_utils as pb_utils

from ..contract import CaptionError, Code, Fault, late
from ..engines.device import GPU, Array
from ..engines.loading import CPU, EngineChoice

logger = logging.getLogger(__name__)

_STATUS = {
    Code.DEADLINE_EXCEEDED: "UNAVAILABLE",
    Code.OVERLOADED: "UNAVAILABLE",
    Code.INTERNAL: "INTERNAL",
}
"""Triton's status of a code, 503 or 500; every other code is the client's fault: 400, INVALID_ARGUMENT.

By name: Triton fills in ``pb_utils`` only after it has imported the model.
"""


class Settings:
    """A model's ``config.pbtxt``: its ``parameters`` as text and numbers, and its name."""

    def __init__(self, args: Mapping[str, str]) -> None:
        self.config = json.loads(args["model_config"])
        self.name = args["model_name"]
        self._gpu = args.get("model_instance_device_id", "0")
        self.folder = f"{args['model_repository']}/{args['model_version']}"

    def text(self, key: str) -> str:
        """A parameter, which the configuration must have."""
        return self.config["parameters"][key]["string_value"]

    def integer(self, key: str) -> int:
        """A parameter that is a whole number."""
        return int(self.text(key))

    def has(self, key: str) -> bool:
        """Whether the configuration has a parameter."""
        return key in self.config["parameters"]

    def engine(self) -> EngineChoice:
        """What runs the model's graphs, and on which GPU Triton put this instance."""
        device = self.text("device") if self.has("device") else CPU
        device = f"{GPU}:{self._gpu}" if device == GPU else device
        return EngineChoice(self.text("engine"), self.text("precision"), self.integer("threads"), device)


class Gauge:
    """A number on Triton's metrics endpoint, labelled with the model's name; 0 at first."""

    def __init__(self, name: str, description: str, model: str) -> None:
        # The family is kept: a metric lives no longer than its family.
        self._family = pb_utils.MetricFamily(name, description, pb_utils.MetricFamily.GAUGE)
        self._metric = self._family.Metric(labels={"model": model})
        self.set(0)

    def set(self, value: float) -> None:
        """Shows ``value`` from now on; where Triton has no shared memory for the message, the last one stays."""
        try:
            self._metric.set(value)
        except Exception as error:  # whoever counts has more to do than to show it
            logger.warning("a metric could not be shown: %s", error)


def tensor(request: Any, name: str) -> np.ndarray:
    """An input of a request; it lies in shared memory as long as the request lives."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def states(request: Any, name: str) -> Array:
    """An input of a request where it lies, which may be on a GPU; it lives as long as the request."""
    given = pb_utils.get_input_tensor_by_name(request, name)
    if given.is_cpu():
        return given.as_numpy()
    import cupy  # noqa: PLC0415

    return cupy.from_dlpack(given)


def output(name: str, values: Array) -> Any:
    """An output tensor; on a GPU it is handed over where it lies."""
    if isinstance(values, np.ndarray):
        return pb_utils.Tensor(name, values)
    return pb_utils.Tensor.from_dlpack(name, values)


def request_parameters(request: Any) -> dict[str, Any]:
    """What the client set beside the tensors.

    Raises:
        CaptionError: INVALID_PARAMETER; Triton takes bytes that are no text.
    """
    try:
        return json.loads(request.parameters() or "{}")
    except ValueError as error:
        raise CaptionError(Code.INVALID_PARAMETER, "the parameters are not text in UTF-8") from error


def deadline(request: Any, most: float) -> float:
    """When the request must be answered, on the monotonic clock: its own timeout, ``most`` seconds at the latest."""
    asked = request.timeout() / 1e6
    return time.monotonic() + (min(asked, most) if asked > 0 else most)


def refusal(error: CaptionError) -> Any:
    """The response that tells a client of an error."""
    status = getattr(pb_utils.TritonError, _STATUS.get(error.code, "INVALID_ARG"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), status))


def send(sender: Any, response: Any) -> None:
    """Answers a request, for the only time.

    Args:
        sender: the request's.
        response: the error, or the outputs that the request asks for and no other: Triton 2.51 destroys an output that
            nobody wants without holding the GIL, which breaks Python's memory and then the process.
    """
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def fault(where: str) -> Fault:
    """Logs the exception being handled under a new id; the client is told the id alone."""
    error = Fault()
    pb_utils.Logger.log_error(f"{where}: error {error.number}\n{traceback.format_exc()}")
    return error


def log_refusal(where: str, message: str) -> None:
    """Logs what a client is told in other words."""
    pb_utils.Logger.log_error(f"{where}: {message}")


def raise_refusal(message: str, stage: str) -> NoReturn:
    """Raises what a stage, or Triton for it, answered: the contract's codes as they are, the rest in its words.

    A response to a BLS call keeps an error's text alone.
    """
    for code in Code:
        if message.startswith(f"{code}: "):
            raise CaptionError(code, message.removeprefix(f"{code}: "))
    if "maximum queue size" in message:
        raise CaptionError(Code.OVERLOADED, "too many images are waiting; try again later")
    if "timeout expired" in message:
        raise late()
    if "shared memory pool" in message:
        log_refusal(stage, message)
        raise CaptionError(Code.OVERLOADED, "the server has too little shared memory left; try again later")
    raise RuntimeError(f"{stage} failed: {message}")
