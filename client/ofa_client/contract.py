"""What the server promises: model, tensors, request parameters and stages, as this client knows them.

The server's own list is ``ofa_serving.contract``, which this distribution does not need; a test compares the two.
The code words of errors are in :mod:`ofa_client.errors`.
"""

from __future__ import annotations

MODEL = "ofa_caption"
"""The served model, unless its checkpoint was built under another name."""

IMAGE = "image"
CAPTION = "caption"
SCORE = "score"
TOKENS = "tokens"
TOKEN_LOGPROBS = "token_logprobs"
TIMING = "timing_ms"

STAGES = ("preprocess_queue", "preprocess", "encode", "search_queue", "search")
"""What ``timing_ms`` holds, in order."""

PAD = 1
"""The token that fills the rows of ``tokens`` up to the longest; OFA never generates it."""

INTEGER_PARAMETERS = ("beam_size", "num_captions", "max_length", "min_length", "no_repeat_ngram_size")
DECIMAL_PARAMETERS = ("length_penalty", "temperature", "unk_penalty")
PARAMETERS = INTEGER_PARAMETERS + DECIMAL_PARAMETERS

PRIORITY_CLASS = "priority_class"
PRIORITY_CLASSES = ("interactive", "batch")
"""Who waits where the server is full: ``batch``; without the parameter a request is ``interactive``."""

MAX_IMAGE_BYTES = 20 * 2**20
"""What the server takes as one image's file."""
