"""``python -m loadtest.sender URL MODEL TIMEOUT``: sends requests by the client's public API, one a line of input.

A process of its own without gevent, whose patches the client's gRPC does not bear: Locust's users write what is due,
and read what came of it. A line in is ``{"id", "case", "due"}``; a line out has the code, and the seconds from when
the request was due (not from when it was sent: a sender that is late would hide the server's delay) to its answer.

Where a proxy wants to know who calls, ``OFA_API_KEY``, ``OFA_CA_FILE``, ``OFA_CERT_FILE`` and ``OFA_KEY_FILE`` say it,
as they do to ``ofa-caption``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from ofa_client import AsyncCaptioner, CaptionServiceError

from loadtest.mix import CALLER_LIMIT, OK, Case, default_mix

_ACCESS = ("api_key", "ca_file", "cert_file", "key_file")
_OF_ONE_CALLER = "of one caller"
"""What the proxy's refusals say that a busy server's do not."""


async def serve(url: str, model: str, timeout: float) -> None:
    """Sends what standard input asks for, until it ends and everything is answered."""
    mix = default_mix()
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    access = {name: os.environ.get(f"OFA_{name.upper()}") or None for name in _ACCESS}
    async with AsyncCaptioner(url, model=model, timeout=timeout, retry=None, **access) as captioner:
        try:
            known = await _known_captions(captioner, mix)
        except CaptionServiceError as error:
            _write({"failed": f"no caption without load: {error}"})
            return
        _write({"ready": len(known)})
        async with asyncio.TaskGroup() as tasks:
            while line := await reader.readline():
                job = json.loads(line)
                case = mix[job["case"]]
                tasks.create_task(_send(captioner, job, case, known.get(job["case"])))


async def _known_captions(captioner: AsyncCaptioner, mix: list[Case]) -> dict[int, str]:
    """What the server says to each good case without load, which it must say under load as well."""
    return {
        index: (await captioner.caption(case.image, **case.options)).text
        for index, case in enumerate(mix)
        if case.expected == OK
    }


async def _send(captioner: AsyncCaptioner, job: dict[str, Any], case: Case, known: str | None) -> None:
    started = time.monotonic()
    try:
        caption = await captioner.caption(case.image, **case.options)
        code = OK if caption.text == known else "WRONG_CAPTION"
    except CaptionServiceError as error:
        code = CALLER_LIMIT if _OF_ONE_CALLER in error.message else error.code
    ended = time.monotonic()
    _write(
        {
            "id": job["id"],
            "name": case.name,
            "due": job["due"],
            "lag": started - job["due"],
            "seconds": ended - job["due"],
            "code": code,
            "expected": case.expected,
        }
    )


def _write(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], float(sys.argv[3])))
