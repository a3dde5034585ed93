"""An hour, or as long as ``SOAK_SECONDS`` says, of mixed load with faults at random; then whether the memory grows.

``make soak`` runs it and writes the figures down.
"""

import os
import random
import re
import signal
import time
from collections import Counter

import numpy as np
import pytest
from altered import altered
from cases import CASES
from flood import known_images
from processes import is_running, model_processes, resident_bytes, shared_memory_bytes
from proxy_process import MISSING, NGINX, ProxyProcess
from serving_process import ServerProcess, wait_until
from soak_load import MixedLoad
from tritonclient.utils import InferenceServerException
from wire import over_grpc

pytestmark = [pytest.mark.long, pytest.mark.skipif(NGINX is None, reason=MISSING)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "3600"))
MODEL = CASES[0].model_name
CLIENTS = 12
BACK_WITHIN = 10
"""Seconds from the kill of a model's process to the next caption."""

WARM_UP = 30
"""Seconds of load until every buffer has its size."""

GROWTH = 0.03
"""What memory may grow from the first third of a look at it to the last."""

LEAK = """
import ofa_serving.models.preprocess as module
kept = []
original = module.load_pixels
def leaking(*arguments):
    kept.append(bytes([1]) * 60_000)
    return original(*arguments)
module.load_pixels = leaking
"""


def front(work, server):
    """The deployment's proxy, without the bound on one caller's rate: all clients here have one address."""
    proxy = ProxyProcess(work, [server])
    limits = proxy.site / "limits.conf"
    limits.write_text(re.sub(r"rate=\d+r/s", "rate=100000r/s", limits.read_text()))
    return proxy


def test_nothing_is_lost_or_mixed_up_whatever_is_killed(artifacts, tmp_path, record_property):
    """Every request is answered, with its own caption or a documented code, and the server comes back each time."""
    flags = ["--max-restarts=100000", "--canary-interval=2", "--canary-timeout=5"]
    rng, back, harms = random.Random(0), {}, Counter()
    with (
        ServerProcess(artifacts(CASES[0]).parent, [MODEL], tmp_path, flags) as server,
        front(tmp_path / "proxy", server) as proxy,
        MixedLoad(proxy, CASES[0], CLIENTS) as load,
    ):
        until = time.monotonic() + 0.6 * SECONDS
        while time.monotonic() < until:
            time.sleep(rng.uniform(10, 30))
            harm = rng.choice(list(HARMS))
            harms[harm] += 1
            began = time.monotonic()
            HARMS[harm](server, rng)
            wait_until(lambda: captions(server), 120)
            back.setdefault(harm, []).append(round(time.monotonic() - began, 1))
    tally = load.tally
    record_property("requests", tally.total)
    record_property("codes", tally.by_code())
    record_property("harms", dict(harms))
    record_property("back_after_seconds", back)
    record_property("uncoded", dict(tally.undocumented.most_common(10)))
    assert tally.unanswered == []
    assert tally.wrong == []
    assert dict(tally.undocumented) == {}
    assert max(back["a model's process is killed"]) <= BACK_WITHIN


def kill_a_models_process(server, rng):
    victim = rng.choice(sorted(model_processes(server).values()))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_running(victim))


def stop_a_models_process(server, rng):
    """It hangs: only the canary can tell."""
    victim = rng.choice(sorted(model_processes(server).values()))
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: not is_running(victim), 120)


def kill_the_server(server, _rng):
    victim = server.server_pid
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_running(victim))


HARMS = {
    "a model's process is killed": kill_a_models_process,
    "a model's process is stopped": stop_a_models_process,
    "the server is killed": kill_the_server,
}


def captions(server):
    """Whether it does."""
    known = known_images(CASES[0])[0]
    try:
        return over_grpc(server, MODEL, [known.image], timeout=2)["caption"][0, 0].decode() == known.caption
    except InferenceServerException:
        return False


def growth(artifacts, work, seconds):
    """By how much memory and shared memory have grown, as shares, while a steady load went on."""
    work.mkdir(exist_ok=True)
    samples = []
    with (
        ServerProcess(artifacts, [MODEL], work) as server,
        front(work / "proxy", server) as proxy,
        MixedLoad(proxy, CASES[0], CLIENTS, gentle=True) as load,
    ):
        time.sleep(WARM_UP)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            samples.append((resident_bytes(server.pid), shared_memory_bytes(server)))
            time.sleep(1)
        log = server.log()
    third = len(samples) // 3
    first, last = np.median(samples[:third], axis=0), np.median(samples[-third:], axis=0)
    codes = load.tally.by_code()
    assert codes.keys() <= {"OK", "OVERLOADED"}, f"{codes}\n{log[-4000:]}"
    return load.tally.total, last / first - 1


def test_memory_does_not_grow(artifacts, tmp_path, record_property):
    requests, (resident, shared) = growth(artifacts(CASES[0]).parent, tmp_path / "sound", 0.3 * SECONDS)
    record_property("requests", requests)
    record_property("resident_growth", round(resident, 4))
    record_property("shared_memory_growth", round(shared, 4))
    assert resident < GROWTH
    assert shared < GROWTH


def test_a_server_that_leaks_is_found_out(artifacts, tmp_path, record_property):
    """The same look at a server that keeps 60 kB of each image: else the test above could not fail."""
    altered(artifacts(CASES[0]), tmp_path / "artifacts", code={f"{MODEL}_preprocess": LEAK})
    requests, (resident, _) = growth(tmp_path / "artifacts", tmp_path / "leaking", 0.1 * SECONDS)
    record_property("requests", requests)
    record_property("resident_growth", round(resident, 4))
    assert resident > GROWTH
