"""Holding searches against the record."""

import numpy as np

SCORE_TOLERANCE = 1e-3


def assert_hypotheses(found, recorded):
    assert len(found) == len(recorded)
    for hypotheses, wanted in zip(found, recorded, strict=True):
        assert [h.tokens.tolist() for h in hypotheses] == [w["tokens"] for w in wanted]
        scores = [w["score"] for w in wanted]
        np.testing.assert_allclose([h.score for h in hypotheses], scores, rtol=0, atol=SCORE_TOLERANCE)
        for hypothesis, want in zip(hypotheses, wanted, strict=True):
            np.testing.assert_allclose(hypothesis.logprobs, want["positional_scores"], rtol=0, atol=SCORE_TOLERANCE)
