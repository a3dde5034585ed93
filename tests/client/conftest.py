"""Fixtures of the client's tests: a real Triton whose model does as the image says, and both protocols to it.

They also run under Pythons that the server does not support, against a server that runs already:

    python tests/client/scripted_triton.py         # prints its URLs, serves until its standard input ends
    OFA_TEST_SCRIPTED_URLS="grpc://… http://…" python3.9 -m pytest tests/client --confcutdir=tests/client
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid

import pytest

# A test's server runs in this process: gRPC's threads would come alive in what Python 3.9 forks, ahead of the command.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from ofa_client import AsyncCaptioner, Captioner

from command_line import run as run_command
from scripted_triton import Server, scripted_triton

RUNNING_URLS = os.environ.get("OFA_TEST_SCRIPTED_URLS")
collect_ignore = ["test_client_served.py"] if RUNNING_URLS else []


@pytest.fixture(scope="session")
def scripted(tmp_path_factory):
    if RUNNING_URLS:
        yield Server(*RUNNING_URLS.split())
        return
    with scripted_triton(tmp_path_factory.mktemp("scripted")) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def url(request, scripted):
    """The scripted server's address over each protocol: what holds for one holds for the other."""
    return getattr(scripted, request.param)


@pytest.fixture
def captioner(url):
    with Captioner(url) as captioner:
        yield captioner


@pytest.fixture
def script():
    """Return the image that makes the server do what the keywords say, see ``scripted_model.py``."""
    return lambda **keys: b"scripted:" + json.dumps(keys).encode()


@pytest.fixture
def held(scripted, script):
    """Return an image whose captions come once it is let go, and what lets it go; in the end all are.

    With ``until``, so many requests less one are to come before; the last one lets all of them go.
    """
    groups = []

    def hold(until=2, **keys):
        group = str(uuid.uuid4())
        groups.append(group)
        return script(group=group, until=until, **keys), lambda: let_go(group)

    def let_go(group):
        with Captioner(scripted.grpc) as captioner:
            captioner.caption(script(group=group))

    yield hold
    for group in groups:
        let_go(group)


@pytest.fixture
def environment(scripted):
    """The command's: its own variables name the scripted server and nothing else."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OFA_")}
    return {**own, "OFA_URL": scripted.grpc}


@pytest.fixture
def ofa_caption(environment, tmp_path):
    """Run the command in an empty folder; ``variables`` are the environment's."""

    def run(*arguments, encoding="utf-8", **variables):
        return run_command(arguments, tmp_path, {**environment, **variables}, encoding)

    return run


@pytest.fixture
def run_async(url):
    """Run ``use(captioner)`` with an asynchronous captioner, in a loop of its own."""

    def run(use, **settings):
        async def main():
            async with AsyncCaptioner(url, **settings) as captioner:
                return await use(captioner)

        return asyncio.run(main())

    return run


@pytest.fixture
def closed_port():
    """A port of this machine that nobody listens on; nobody else is given it, and a test's own server may have it."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
