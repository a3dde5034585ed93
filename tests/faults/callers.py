"""Clients that ask for captions over and over, and what they were answered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import tritonclient.grpc
import tritonclient.http
from crowd import Crowd
from flood import Known

PAUSE = 0.2
"""Seconds after which one that was refused asks again, as refusals are quick and a proxy counts requests."""


class Callers(Crowd):
    """Clients of both protocols, each over a connection of its own, from entering the context until leaving it.

    Args:
        proxy: where they ask; anything with ``grpc_url`` and ``http_url``.
        model: whom.
        known: the images, with what must come back.
        each: how many of each protocol.

    Attributes:
        answered: captions that were the image's own.
        failures: everything else, by protocol.

    """

    def __init__(self, proxy, model: str, known: Sequence[Known], each: int) -> None:
        self._model, self._known = model, known
        self.answered, self.failures = 0, {"grpc": [], "http": []}
        urls = {"grpc": proxy.grpc_url, "http": proxy.http_url.removeprefix("http://")}
        protocols = {"grpc": tritonclient.grpc, "http": tritonclient.http}
        super().__init__([partial(self._call, name, protocols[name], urls[name]) for name in urls for _ in range(each)])

    def _call(self, name, protocol, url) -> None:
        number = 0
        with protocol.InferenceServerClient(url) as client:
            while not self._ended.is_set():
                known = self._known[number % len(self._known)]
                number += 1
                try:
                    answer = client.infer(self._model, [tensor(protocol, known.image)])
                except Exception as error:
                    self.failures[name].append(f"{type(error).__name__}: {error}")
                    self._ended.wait(PAUSE)
                    continue
                caption, score = answer.as_numpy("caption")[0, 0].decode(), float(answer.as_numpy("score")[0, 0])
                if known.fits(caption, score):
                    self.answered += 1
                else:
                    self.failures[name].append(f"another's caption: {caption}")


def tensor(protocol, image: bytes):
    """The input of a request for one image."""
    given = protocol.InferInput("image", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[image]], dtype=np.object_))
    return given
