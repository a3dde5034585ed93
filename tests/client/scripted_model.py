"""A Triton model with the contract's tensors that answers as its image tells it: the client's faults on demand.

An image that begins with ``scripted:`` goes on with a JSON object:

    error, status    refuse with this message and this name of a ``TritonError`` code (INVALID_ARG by default)
    until            answer only when so many requests of this ``group`` have come
    delay_s          answer after that long
    captions         answer with these texts
    scores           answer with these scores, even if they are too many
    echo             answer with what arrived, as JSON: parameters, timeout_us, in_flight (requests of this ``group``
                     just now) and cancelled (those of it so far whose client had gone when their answer was due)

Any other image gets captions that name the hash of its bytes.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

MARK = b"scripted:"
PAD, END = 1, 2
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.execute_seconds = float(parameters.get("execute_seconds", {"string_value": "0"})["string_value"])
        self.lock = threading.Lock()
        # All answers leave from one thread: is_cancelled() on one beside send() on another ends Triton 2.51's process.
        self.answering = ThreadPoolExecutor(1)
        self.came, self.in_flight, self.cancelled = Counter(), Counter(), Counter()
        self.held = []

    def execute(self, requests):
        time.sleep(self.execute_seconds)
        for request in requests:
            image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().item()
            script = json.loads(image[len(MARK) :]) if image.startswith(MARK) else {}
            group = script.get("group")
            with self.lock:
                self.came[group] += 1
                self.in_flight[group] += 1
                counts = {"in_flight": self.in_flight[group], "cancelled": self.cancelled[group]}
            arrived = {"parameters": json.loads(request.parameters()), "timeout_us": request.timeout(), **counts}
            answer = respond(image, script, arrived, request.requested_output_names())
            self.held.append((script, request.get_response_sender(), answer))
            ready = [held for held in self.held if self.came[held[0].get("group")] >= held[0].get("until", 0)]
            self.held = [held for held in self.held if held not in ready]
            for script, sender, answer in ready:
                due = (self.send, sender, answer, script.get("group"))
                threading.Timer(script.get("delay_s", 0), self.answering.submit, due).start()

    def send(self, sender, answer, group):
        with self.lock:
            self.in_flight[group] -= 1
            self.cancelled[group] += sender.is_cancelled()
        sender.send(answer, flags=FINAL)


def respond(image, script, arrived, wanted):
    if "error" in script:
        status = getattr(pb_utils.TritonError, script.get("status", "INVALID_ARG"))
        return pb_utils.InferenceResponse([], pb_utils.TritonError(script["error"], status))
    n = int(arrived["parameters"].get("num_captions", 1))
    digest = hashlib.sha256(image).hexdigest()[:12]
    captions = script.get("captions", [f"image {digest}, caption {i}" for i in range(n)])
    if script.get("echo"):
        captions = [json.dumps(arrived)]
    n = len(captions)
    lengths = [3 + i for i in range(n)]  # each hypothesis a token longer than the one before
    tokens = np.full((n, max(lengths)), PAD, np.int32)
    logprobs = np.zeros(tokens.shape, np.float32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = [*range(4, 3 + length), END]
        logprobs[row, :length] = -0.5
    scores = np.array(script.get("scores", [-0.25 * (i + 1) for i in range(n)]), np.float32)
    outputs = {
        "caption": np.array([[text.encode() for text in captions]], np.object_),
        "score": scores[None],
        "tokens": tokens[None],
        "token_logprobs": logprobs[None],
        "timing_ms": np.array([[0.5, 1, 2, 3, 4]], np.float32),
    }
    # Those asked for alone: send() destroys the others without the GIL, which breaks Python's memory (Triton 2.51).
    tensors = [pb_utils.Tensor(name, values) for name, values in outputs.items() if name in wanted]
    return pb_utils.InferenceResponse(tensors)
