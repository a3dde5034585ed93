"""What the page's process does beside the page: what it fetches, keeps and says at its start. No browser is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples/images"
OWL = (EXAMPLES / "owl.png").read_bytes()
COMMAND = [sys.executable, "-m", "ofa_client.page"]
WAIT = 30


def get(url):
    with urllib.request.urlopen(url, timeout=WAIT) as response:
        return response.read()


def post(url, data, content_type="application/json"):
    return get(urllib.request.Request(url, data, {"Content-Type": content_type}))


def upload(page_url):
    """Send a file as the browser does; returns its path."""
    head = '--part\r\nContent-Disposition: form-data; name="files"; filename="mine.png"\r\n\r\n'
    body = head.encode() + OWL + b"\r\n--part--\r\n"
    return Path(json.loads(post(f"{page_url}gradio_api/upload", body, "multipart/form-data; boundary=part"))[0])


def wait_until(happened):
    give_up = time.monotonic() + WAIT
    while not happened() and time.monotonic() < give_up:
        time.sleep(0.1)
    assert happened()


@pytest.fixture
def elsewhere(monkeypatch):
    """A server that Gradio takes for a public one: its address, and what it was asked for."""
    import safehttpx

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(OWL)

        def log_message(self, *_):
            pass

    monkeypatch.setattr(safehttpx, "is_public_ip", lambda _: True)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/huge.png", asked
        server.shutdown()


def ask(page_url, inputs):
    """Describe as the browser does; returns what the page's process said."""
    config = json.loads(get(f"{page_url}config"))
    function = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == len(inputs))
    body = {"data": inputs, "fn_index": function, "session_hash": "visitor"}
    post(f"{page_url}gradio_api/queue/join", json.dumps(body).encode())
    return get(f"{page_url}gradio_api/queue/data?session_hash=visitor").decode()


@pytest.mark.parametrize("place", range(5))
def test_a_file_that_is_an_address_is_not_fetched(served, captioner, elsewhere, uploads, place):
    address, asked = elsewhere
    inputs = [None, "", 0, 0, 0]
    inputs[place] = {"path": address, "meta": {"_type": "gradio.FileData"}}
    said = ask(served.local_url, inputs)
    assert '"success":false' in said
    assert asked == captioner.asked == []
    assert not list(uploads.rglob("huge.png"))


def test_a_file_that_was_uploaded_is_described(served, captioner):
    inputs = [{"path": str(upload(served.local_url)), "meta": {"_type": "gradio.FileData"}}, "", 0, 0, 0]
    assert '"success":true' in ask(served.local_url, inputs)
    assert captioner.pictures == ["mine.png"]


@pytest.mark.parametrize("way", ["file=", "file/", "proxy="])
def test_the_page_passes_nothing_on(served, elsewhere, way):
    address, asked = elsewhere
    with pytest.raises(urllib.error.HTTPError) as refusal:
        get(f"{served.local_url}gradio_api/{way}{address}")
    assert refusal.value.code == 403
    assert asked == []


def test_an_upload_is_deleted_after_a_while_and_no_example_with_it(captioner, uploads, monkeypatch):
    from ofa_client.page import app

    monkeypatch.setattr(app, "_DELETE_CACHE", (1, 1))
    page = app.build(captioner, sorted(EXAMPLES.glob("*.png")))
    app.launch(page, "127.0.0.1", 0)
    file = upload(page.local_url)
    wait_until(file.exists)
    wait_until(lambda: not file.exists())
    assert {file.name for file in uploads.rglob("*.png")} == {file.name for file in EXAMPLES.glob("*.png")}
    page.close(verbose=False)


def environment(**variables):
    """This process's environment without settings of the page, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OFA_")} | variables


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_uploads_are_deleted_at_the_end(uploads, ending):
    # Two addresses, as people write them.
    variables = environment(GRADIO_TEMP_DIR=str(uploads), OFA_URL="grpc://127.0.0.1:1 , grpc://127.0.0.1:2")
    command = [*COMMAND, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        file = upload(re.search(r"http://\S+", process.stdout.readline())[0])
        wait_until(file.exists)
        process.send_signal(ending)
        assert process.wait(WAIT) == 0
    assert not file.exists()


def run(*flags, **variables):
    command, variables = [*COMMAND, *flags], environment(**variables)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("flags", "variables", "reason"),
    [
        ([], {"OFA_PAGE_PORT": "abc"}, "argument --port: must be 0 to 65535, not 'abc'"),
        (["--port", "65536"], {}, "argument --port: must be 0 to 65535, not '65536'"),
        (["--examples", "nosuch"], {}, "nosuch: No such file or directory"),
        ([], {"OFA_URL": "ftp://a"}, "the server's address must look like grpc://host:8001 or http://host:8000, not "),
    ],
)
def test_wrong_settings_are_said_in_a_line(flags, variables, reason):
    done = run(*flags, **variables)
    assert done.returncode == 2
    assert re.fullmatch(rf"python -m ofa_client\.page: {re.escape(reason)}.*\n", done.stderr)


def test_a_taken_port_is_said_in_a_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 2
    reason = f"127.0.0.1:{port} is taken, or no address of this machine"
    assert done.stderr == f"python -m ofa_client.page: {reason}\n"


def test_a_missing_gradio_is_said_in_a_line(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError(name='gradio')\n", encoding="utf-8")
    done = run(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    reason = "gradio is not installed: pip install 'ofa-client[page]'"
    assert done.stderr == f"python -m ofa_client.page: {reason}\n"
