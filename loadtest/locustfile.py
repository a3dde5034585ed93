"""Locust's side: users who send at random moments, whatever became of their earlier requests.

Each user stands for ``Plan.user_rate`` requests a second, at intervals of a Poisson process, and never waits for an
answer (an open loop). The shape sets the number of users, so the whole rate.
What came of each request goes to Locust's statistics, and to ``results-PID.jsonl`` for the report.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, User, constant, events, runners, task
from locust.runners import MasterRunner

from loadtest.mix import OK, default_mix
from loadtest.plan import Plan

OUT = Path(os.environ["LOADTEST_OUT"])
PLAN = Plan.read(OUT)
MIX = default_mix()
WEIGHTS = [case.weight for case in MIX]
READY_SECONDS = PLAN.ready_seconds(sum(case.expected == OK for case in MIX))
NO_SERVER = 3

# A worker hears nothing of its master while it gets its first captions, and after the master's end waits for answers.
runners.MASTER_HEARTBEAT_TIMEOUT += READY_SECONDS + PLAN.drain_seconds


class Sender:
    """The process that sends."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._numbers = itertools.count()
        self._open: dict[int, dict[str, Any]] = {}
        command = [sys.executable, "-m", "loadtest.sender", PLAN.url, PLAN.model, str(PLAN.timeout)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._log = (OUT / f"results-{os.getpid()}.jsonl").open("w", encoding="utf-8")
        first = json.loads(self._process.stdout.readline() or '{"failed": "the sender ended: see above"}')
        if "failed" in first:
            raise RuntimeError(first["failed"])
        self._reader = gevent.spawn(self._read)

    def submit(self, case: int, due: float) -> None:
        """Has a request sent now that was due at a monotonic time."""
        job = {"id": next(self._numbers), "case": case, "due": due}
        self._open[job["id"]] = job
        self._process.stdin.write(json.dumps(job) + "\n")

    def close(self) -> None:
        """Waits for the answers that are missing, for a while."""
        self._process.stdin.close()
        self._reader.join(PLAN.drain_seconds)
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
            request_type=PLAN.url.partition(":")[0],
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
        _fail(str(error))
        environment.process_exit_code = NO_SERVER
        environment.runner.quit()
    else:
        (OUT / f"ready-{os.getpid()}").touch()


@events.test_stop.add_listener
def stop_sender(**_arguments: Any) -> None:
    """Lets the answers in, and says so: with several workers Locust's own end comes before theirs."""
    if _sender is not None:
        _sender.close()
        (OUT / f"done-{os.getpid()}").touch()


def _fail(reason: str) -> None:
    """Leaves word for the command, which says it."""
    (OUT / f"failed-{os.getpid()}").write_text(reason, encoding="utf-8")


class CaptionUser(User):
    """Sends requests of the mix by a Poisson process.

    Its schedule goes on from when each request was due, not from when this process came to it: a generator that is
    late sends late what it should have sent, and the lateness shows.
    """

    wait_time = constant(0)

    def on_start(self) -> None:
        """The schedule begins."""
        self._due = time.monotonic()

    @task
    def caption(self) -> None:
        """Waits for its moment, and sends."""
        self._due += random.expovariate(PLAN.user_rate)
        gevent.sleep(max(self._due - time.monotonic(), 0))
        if _sender is not None:
            _sender.submit(random.choices(range(len(MIX)), WEIGHTS)[0], self._due)


class Steps(LoadTestShape):
    """The chosen shape, from when the senders are ready; its beginning is on record for the report."""

    def __init__(self) -> None:
        super().__init__()
        self._begin: float | None = None

    def tick(self) -> tuple[int, float] | None:
        """The number of users now; None at the end."""
        if self._begin is None:
            if any(OUT.glob("failed-*")):
                return None
            if len(list(OUT.glob("ready-*"))) < PLAN.workers:
                return self._wait()
            self._begin = time.monotonic()
            (OUT / "start.json").write_text(json.dumps({"start": self._begin}))
        elapsed = time.monotonic() - self._begin
        for step in PLAN.steps:
            if elapsed < step.end:
                users = round(step.rate / PLAN.user_rate)
                return users, users
        return None

    def _wait(self) -> tuple[int, float] | None:
        """One user, with whom Locust starts the senders."""
        if self.get_run_time() < READY_SECONDS:
            return 1, 1
        _fail(f"the first captions, in turn, took longer than {READY_SECONDS:g} s")
        return None
