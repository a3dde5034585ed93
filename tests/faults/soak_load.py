"""A mixed load whose every answer is known beforehand, and what became of each request."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import tritonclient.grpc
import tritonclient.http
from bad_images import REFUSED
from callers import tensor
from cases import Case
from crowd import Crowd
from flood import CODES, SCORE_TOLERANCE
from tritonclient.utils import InferenceServerException

PATIENCE = 60
"""Seconds after which a request counts as unanswered; the server's own deadline is 30."""

PAUSE = 0.05
"""Seconds after which one that was refused asks again."""

OUTPUTS = ("tokens", "score")


@dataclass
class Tally:
    """What became of the requests: how many by kind and code, and those that must not be."""

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    undocumented: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, code: str) -> None:
        """Counts one."""
        with self.lock:
            self.codes[kind, code] += 1

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.codes.values())

    def by_code(self) -> dict[str, int]:
        """The codes of all kinds together."""
        codes: Counter[str] = Counter()
        for (_, code), count in self.codes.items():
            codes[code] += count
        return dict(codes)


class MixedLoad(Crowd):
    """Clients of all sorts at a proxy, from entering the context until leaving it.

    Args:
        proxy: where they ask.
        case: the checkpoint that is served there, whose golden records say what must come back.
        clients: how many at a time.
        gentle: only requests that must succeed, for a look at the memory.

    """

    def __init__(self, proxy, case: Case, clients: int, *, gentle: bool = False) -> None:
        self._proxy, self._case, self._model = proxy, case, case.model_name
        self._kinds = {"known": 70, "several": 5}
        if not gentle:
            self._kinds |= {"bad": 10, "hurried": 8, "cancelled": 5, "slow": 2}
        self._searches = [(asdict(settings), hypotheses) for settings, hypotheses in case.searches]
        self.tally = Tally()
        super().__init__([partial(self._work, seed) for seed in range(clients)])

    def _work(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._ended.is_set():
            (kind,) = rng.choices(list(self._kinds), self._kinds.values())
            began = time.monotonic()
            code = self._code(kind, rng)
            self.tally.add(kind, code)
            if time.monotonic() - began > PATIENCE:
                self.tally.unanswered.append(kind)
            if code != "OK":
                self._ended.wait(PAUSE)

    def _code(self, kind: str, rng: random.Random) -> str:
        try:
            return getattr(self, f"_{kind}")(rng)
        except (InferenceServerException, OSError) as error:
            return self._code_of(error)

    def _code_of(self, error: Exception) -> str:
        """The code word that it begins with; a connection that broke or is refused is the client's UNAVAILABLE."""
        if not isinstance(error, InferenceServerException):
            return "UNAVAILABLE"
        found = re.match(r"([A-Z_]+): ", error.message())
        if found and found[1] in CODES:
            return found[1]
        if error.status() == "StatusCode.UNAVAILABLE":
            return "UNAVAILABLE"
        if error.status() == "StatusCode.DEADLINE_EXCEEDED" or "timed out" in error.message():
            self.tally.unanswered.append(error.message())
            return "unanswered"
        self.tally.undocumented[f"{error.status()} {error.message()}"] += 1
        return "undocumented"

    def _known(self, rng: random.Random, **arguments) -> str:
        return self._ask(rng, [rng.randrange(len(self._case.images))], **arguments)

    def _several(self, rng: random.Random) -> str:
        numbers = [rng.randrange(len(self._case.images)) for _ in range(rng.randint(2, 4))]
        return self._ask(rng, numbers, priority_class="batch")

    def _hurried(self, rng: random.Random) -> str:
        return self._known(rng, timeout=int(10 ** rng.uniform(3, 5.5)))

    def _bad(self, rng: random.Random) -> str:
        image, expected = rng.choice(list(REFUSED.values()))
        try:
            self._infer(rng, [image], {})
        except InferenceServerException as error:
            code = self._code_of(error)
            return "OK" if code == expected else code
        self.tally.wrong.append(f"a caption where {expected} was due")
        return "wrong"

    def _cancelled(self, rng: random.Random) -> str:
        with tritonclient.grpc.InferenceServerClient(self._proxy.grpc_url) as client:
            given = [tensor(tritonclient.grpc, rng.choice(self._case.images))]
            call = client.async_infer(self._model, given, lambda result, error: None)
            time.sleep(10 ** rng.uniform(-3, -0.5))
            call.cancel()
        return "OK"

    def _slow(self, rng: random.Random) -> str:
        """Half a request and then nothing; the proxy must end it, not the client."""
        sent = f"POST /v2/models/{self._model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self._proxy.http_port), timeout=PATIENCE) as client:
            client.sendall(sent[: rng.randint(1, len(sent))].encode())
            with contextlib.suppress(ConnectionResetError):
                while client.recv(4096):
                    pass
        return "OK"

    def _ask(self, rng: random.Random, numbers: list[int], timeout: int | None = None, **parameters) -> str:
        settings, hypotheses = rng.choice(self._searches)
        images = [self._case.images[number] for number in numbers]
        answer = self._infer(rng, images, {**settings, **parameters}, timeout)
        for row, number in enumerate(numbers):
            best = hypotheses[number][0]
            tokens = answer.as_numpy("tokens")[row, 0, : len(best["tokens"])].tolist()
            if tokens != best["tokens"] or abs(answer.as_numpy("score")[row, 0] - best["score"]) > SCORE_TOLERANCE:
                self.tally.wrong.append(f"image {number} at {settings}")
                return "wrong"
        return "OK"

    def _infer(self, rng: random.Random, images: list[bytes], parameters: dict, timeout: int | None = None):
        """The answer over either protocol; ``timeout`` in microseconds is the request's own deadline."""
        protocol, url = rng.choice(
            [(tritonclient.grpc, self._proxy.grpc_url), (tritonclient.http, self._proxy.http_url.partition("//")[2])]
        )
        grpc = protocol is tritonclient.grpc
        given = protocol.InferInput("image", [len(images), 1], "BYTES")
        given.set_data_from_numpy(np.array(images, dtype=np.object_).reshape(-1, 1))
        wanted = [protocol.InferRequestedOutput(name) for name in OUTPUTS]
        sent = {name: str(value) if isinstance(value, float) else value for name, value in parameters.items()}
        patience = {} if grpc else {"network_timeout": PATIENCE}
        with protocol.InferenceServerClient(url, **patience) as client:
            options = {"client_timeout": PATIENCE} if grpc else {}
            return client.infer(self._model, [given], outputs=wanted, parameters=sent, timeout=timeout, **options)
