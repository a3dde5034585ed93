"""Locust's side: users who send at random moments, whatever became of their earlier requests.

Each user stands for ``USER_RATE`` requests a second, at intervals of a Poisson process, and never waits for an answer
(an open loop). The shape sets the number of users, so the whole rate.
What came of each request goes to Locust's statistics, and to ``results-PID.jsonl`` for the report.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, User, constant, events, task
from locust.runners import MasterRunner

from loadtest.mix import default_mix
from loadtest.shapes import steps_of

USER_RATE = 0.25
MIX = default_mix()
WEIGHTS = [case.weight for case in MIX]
URL = os.environ["LOADTEST_URL"]
MODEL = os.environ.get("LOADTEST_MODEL", "ofa_caption")
TIMEOUT = os.environ.get("LOADTEST_TIMEOUT", "30")
WORKERS = int(os.environ.get("LOADTEST_WORKERS", "1"))
OUT = Path(os.environ.get("LOADTEST_OUT", "."))
STEPS = steps_of(
    os.environ.get("LOADTEST_SHAPE", "constant"),
    float(os.environ.get("LOADTEST_RATE", "4")),
    float(os.environ.get("LOADTEST_SECONDS", "30")),
)
READY_SECONDS = 60
DRAIN_SECONDS = 20
NO_SERVER = 3

logger = logging.getLogger(__name__)


class Sender:
    """The process that sends."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._numbers = itertools.count()
        self._open: dict[int, dict[str, Any]] = {}
        command = [sys.executable, "-m", "loadtest.sender", URL, MODEL, TIMEOUT]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._log = (OUT / f"results-{os.getpid()}.jsonl").open("w", encoding="utf-8")
        if not json.loads(self._process.stdout.readline() or "{}"):
            raise RuntimeError("the server did not caption the first images")
        self._reader = gevent.spawn(self._read)

    def submit(self, case: int) -> None:
        """Has a request sent now."""
        job = {"id": next(self._numbers), "case": case, "due": time.monotonic()}
        self._open[job["id"]] = job
        self._process.stdin.write(json.dumps(job) + "\n")

    def close(self) -> None:
        """Waits for the answers that are missing, for a while."""
        self._process.stdin.close()
        self._reader.join(DRAIN_SECONDS)
        self._reader.kill()
        self._process.kill()
        for job in list(self._open.values()):
            self._record(_unanswered(job))
        self._log.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            result = json.loads(line)
            del self._open[result["id"]]
            self._record(result)

    def _record(self, result: dict[str, Any]) -> None:
        self._log.write(json.dumps(result) + "\n")
        right = result["code"] == result["expected"]
        self._environment.events.request.fire(
            request_type=URL.partition(":")[0],
            name=result["name"],
            response_time=result["seconds"] * 1e3,
            response_length=0,
            exception=None if right else RuntimeError(result["code"]),
            context={},
        )


def _unanswered(job: dict[str, Any]) -> dict[str, Any]:
    """The result of a request whose answer nobody waited for any longer: it counts as a wrong one."""
    case = MIX[job["case"]]
    waited = time.monotonic() - job["due"]
    codes = {"code": "UNANSWERED", "expected": case.expected}
    return {"id": job["id"], "name": case.name, "due": job["due"], "lag": 0.0, "seconds": waited} | codes


_sender: Sender | None = None


@events.test_start.add_listener
def start_sender(environment: Any, **_arguments: Any) -> None:
    """Before the shape begins, in each process that has users."""
    global _sender  # noqa: PLW0603 - Locust knows functions, not objects
    if isinstance(environment.runner, MasterRunner):
        return
    try:
        _sender = Sender(environment)
    except RuntimeError as error:
        logger.error("%s", error)
        environment.process_exit_code = NO_SERVER
        environment.runner.quit()
    else:
        (OUT / f"ready-{os.getpid()}").touch()


@events.test_stop.add_listener
def stop_sender(**_arguments: Any) -> None:
    """Lets the answers in."""
    if _sender is not None:
        _sender.close()


class CaptionUser(User):
    """Sends requests of the mix by a Poisson process."""

    wait_time = constant(0)

    @task
    def caption(self) -> None:
        """Waits for its moment, and sends."""
        gevent.sleep(random.expovariate(USER_RATE))
        if _sender is not None:
            _sender.submit(random.choices(range(len(MIX)), WEIGHTS)[0])


class Steps(LoadTestShape):
    """The chosen shape, from when the senders are ready; its beginning is on record for the report."""

    def __init__(self) -> None:
        super().__init__()
        self._begin: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """The number of users now; None at the end."""
        if self._begin is None:
            if len(list(OUT.glob("ready-*"))) < WORKERS:
                return (1, 1) if self.get_run_time() < READY_SECONDS else None
            self._begin = time.monotonic()
            (OUT / "start.json").write_text(json.dumps({"start": self._begin}))
        elapsed = time.monotonic() - self._begin
        for step in STEPS:
            if elapsed < step.end:
                users = max(1, round(step.rate / USER_RATE))
                return users, users
        return None
