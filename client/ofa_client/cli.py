"""``ofa-caption``: captions of image files on standard output, one line each."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
from collections import deque
from collections.abc import Sequence

from ofa_client import errors
from ofa_client.aio import AsyncCaptioner
from ofa_client.arguments import parse_arguments, search_options
from ofa_client.results import Caption

SOME_FAILED = 1
UNUSABLE = 2
INTERRUPTED = 130

_FATAL = (
    errors.ServiceUnavailableError,
    errors.ModelNotFoundError,
    errors.AccessRefusedError,
    errors.InvalidParameterError,
)
"""What would happen to every other image as well."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parsed = parse_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be valid text
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own lines would stand between the command's
    try:
        captioner = AsyncCaptioner(parsed.url, model=parsed.model, timeout=parsed.timeout, ca_file=parsed.ca_file)
    except (ValueError, OSError) as error:
        return _give_up(error)
    try:
        return asyncio.run(_caption_all(captioner, parsed))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED


async def _caption_all(captioner: AsyncCaptioner, parsed: argparse.Namespace) -> int:
    """Caption with at most ``concurrency`` images in flight, and write in the order of the command line."""
    status = 0
    waiting = deque(parsed.images)
    running: deque[tuple[str, asyncio.Task[list[Caption]]]] = deque()
    options = search_options(parsed)
    async with captioner:
        try:
            while waiting or running:
                while waiting and len(running) < parsed.concurrency:
                    image = waiting.popleft()
                    request = captioner.captions(image, details=parsed.details, **options)
                    running.append((image, asyncio.ensure_future(request)))
                image, task = running.popleft()
                try:
                    captions = await task
                except _FATAL as error:
                    return _give_up(error)
                except errors.CaptionServiceError as error:
                    _write_failure(image, str(error))
                    status = SOME_FAILED
                except OSError as error:
                    _write_failure(image, f"UNREADABLE: {error.strerror or error}")
                    status = SOME_FAILED
                else:
                    _write(image, captions, parsed)
        finally:
            for _, task in running:
                task.cancel()
            await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    return status


def _write(image: str, captions: list[Caption], parsed: argparse.Namespace) -> None:
    if parsed.json:
        unicode_out = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        lines = [json.dumps(_record(image, captions), ensure_ascii=not unicode_out)]
    else:
        lines = [f"{image}: {caption.text}" for caption in captions]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()  # whoever reads the pipe sees each image when it is done


def _record(image: str, captions: list[Caption]) -> dict[str, object]:
    """The contract's JSON object; the details only where they were asked for."""
    record: dict[str, object] = {
        "image": image,
        "captions": [
            {"text": caption.text, "score": caption.score}
            if caption.tokens is None
            else {
                "text": caption.text,
                "score": caption.score,
                "tokens": caption.tokens,
                "token_logprobs": caption.token_logprobs,
            }
            for caption in captions
        ],
    }
    if captions[0].timing_ms is not None:
        record["timing_ms"] = captions[0].timing_ms
    return record


def _write_failure(image: str, reason: str) -> None:
    sys.stderr.write(f"{image}: {reason}\n")


def _give_up(error: Exception) -> int:
    sys.stderr.write(f"ofa-caption: {error}\n")
    return UNUSABLE
