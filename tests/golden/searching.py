"""Running searches and holding them against the record."""

import time
from concurrent.futures import Future

import numpy as np
from ofa_serving.scheduler import Job

SCORE_TOLERANCE = 1e-3


def search(scheduler, hidden, settings):
    """Every image's hypotheses, searched together."""
    futures = [Future() for _ in hidden]
    until = time.monotonic() + 600
    scheduler.submit([Job(h, settings, until, f.set_result) for h, f in zip(hidden, futures, strict=True)])
    return [future.result().hypotheses for future in futures]


def assert_hypotheses(found, recorded):
    assert len(found) == len(recorded)
    for hypotheses, wanted in zip(found, recorded, strict=True):
        assert [h.tokens.tolist() for h in hypotheses] == [w["tokens"] for w in wanted]
        scores = [w["score"] for w in wanted]
        np.testing.assert_allclose([h.score for h in hypotheses], scores, rtol=0, atol=SCORE_TOLERANCE)
        for hypothesis, want in zip(hypotheses, wanted, strict=True):
            np.testing.assert_allclose(hypothesis.logprobs, want["positional_scores"], rtol=0, atol=SCORE_TOLERANCE)
