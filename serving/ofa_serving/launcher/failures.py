"""Why a server did not start or ended, in one sentence, out of its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

_NOT_LOADED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<code>[A-Z][a-z ]+): (?P<reason>.+)")

_KNOWN = (
    (r"Socket '(?P<detail>[^']+)' already in use", "{detail} was taken while the models loaded"),
    (r"No space left on device", "shared memory or the disk is full"),
    (r"error while loading shared libraries: (?P<detail>[^:\s]+)", "the system lacks the library {detail}"),
    (
        r"Protobuf parsing failed|ONNXRuntimeError.*INVALID_PROTOBUF",
        "model '{model}' has a damaged engine: build it again",
    ),
    (
        r"NoSuchFile|No such file or directory: '[^']*/(?P<detail>[^/']+)'",
        "model '{model}' lacks {detail}: build it again",
    ),
    (
        r"ModuleNotFoundError: No module named '(?P<detail>[^']+)'",
        "the server's environment lacks the package {detail}",
    ),
    (r"MemoryError|bad_alloc|[Cc]annot allocate memory|out of memory", "there is too little memory for the models"),
    (
        r"can't start new thread|Resource temporarily unavailable",
        "there is too little memory for the models' threads, or too few processes are allowed",
    ),
)
"""What the log says, and what that means; looked for in this order."""


def explain(exit_code: int, log: Sequence[str]) -> str:
    """Return one sentence on why a server ended with ``exit_code`` after writing ``log``."""
    text = "\n".join(log)
    not_loaded = _NOT_LOADED.search(text)
    names = {"model": not_loaded["model"] if not_loaded else "?", "detail": "a file"}
    for pattern, sentence in _KNOWN:
        if found := re.search(pattern, text):
            return sentence.format(**names | {key: value for key, value in found.groupdict().items() if value})
    if not_loaded:
        reason = not_loaded["reason"].split(r"\n\nAt:")[0].replace(r"\n", " ").strip(' "')
        return f"model '{not_loaded['model']}' did not load: {reason}"
    if exit_code == -signal.SIGKILL:
        return "the server was killed, perhaps for want of memory"
    if exit_code < 0:
        return f"the server crashed ({signal.Signals(-exit_code).name}), perhaps for want of memory"
    return f"the server ended by itself (exit code {exit_code})"
