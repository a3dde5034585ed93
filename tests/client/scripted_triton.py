"""Starts a real Triton over the scripted models of this folder, for as long as a ``with`` block runs.

``python scripted_triton.py`` serves until its input ends, having printed the two URLs: what a client test under
another Python than the server's connects to, through ``OFA_TEST_SCRIPTED_URLS``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
START_SECONDS = 300
STOP_SECONDS = 60


@dataclass(frozen=True)
class Server:
    grpc: str
    http: str


@contextmanager
def scripted_triton(folder: Path) -> Iterator[Server]:
    """Serve the scripted models out of ``folder`` on free loopback ports."""
    from ofa_serving.launcher.embedded import prepare
    from ofa_serving.launcher.ports import claim_ports
    from ofa_serving.launcher.settings import Ports

    installation = prepare(folder / "server")
    ports = claim_ports("127.0.0.1", Ports(http=0, grpc=0, metrics=0))
    log = folder / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                installation.binary,
                f"--model-repository={lay_out_repository(folder / 'models')}",
                f"--backend-directory={installation.backends}",
                *("--http-address=127.0.0.1", f"--http-port={ports.http}"),
                *("--grpc-address=127.0.0.1", f"--grpc-port={ports.grpc}"),
                "--allow-metrics=false",
                "--exit-timeout-secs=5",
            ],
            env=dict(installation.environment),
            stdout=output,
            stderr=output,
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{ports.http}/v2/health/ready", log)
        yield Server(f"grpc://127.0.0.1:{ports.grpc}", f"http://127.0.0.1:{ports.http}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def lay_out_repository(models: Path) -> Path:
    """Copy the configurations, and put the scripted model behind each of them."""
    shutil.copytree(HERE / "repository", models)
    for model in models.iterdir():
        (model / "1").mkdir()
        shutil.copy(HERE / "scripted_model.py", model / "1/model.py")
    return models


def wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the scripted Triton did not start:\n{log.read_text(errors='replace')[-4000:]}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, scripted_triton(Path(folder)) as server:
        sys.stdout.write(f"{server.grpc} {server.http}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
