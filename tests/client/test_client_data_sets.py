"""``ofa-caption --output``: a data set captioned once, whatever kills it on the way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import grpc
import pytest

from command_line import COMMAND
from interrupts import heed_interrupts
from nonsense_servers import grpc_server, http_answer, http_server, one_caption, refuse, relay
from patience import eventually


@pytest.fixture
def photos(tmp_path, script):
    """Write ``n`` images that each get their own caption; every tenth is broken where ``broken`` is given."""

    def write(n, broken=False, **keys):
        (tmp_path / "photos").mkdir(exist_ok=True)
        for i in range(n):
            bad = {"error": "TRUNCATED_IMAGE: it ends early"} if broken and i % 10 == 9 else {}
            (tmp_path / f"photos/{i:04d}.jpg").write_bytes(script(captions=[f"photo {i}"], **keys, **bad))
        return [f"photos/{i:04d}.jpg" for i in range(n)]

    return write


def records(path):
    """The whole records of a file that may be there, and written to, or not."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def names(path):
    return [record["image"] for record in records(path)]


def test_a_folder_becomes_a_file(ofa_caption, photos, tmp_path):
    images = photos(20)
    result = ofa_caption("photos", "--output", "captions.jsonl")
    assert (result.returncode, result.stdout) == (0, "")
    written = {record["image"]: record["captions"] for record in records(tmp_path / "captions.jsonl")}
    assert written == {name: [{"text": f"photo {i}", "score": -0.25}] for i, name in enumerate(images)}
    assert result.stderr.startswith("#################### 100%  20/20")


def test_failures_go_to_a_file_of_their_own(ofa_caption, photos, tmp_path):
    images = photos(20, broken=True)
    result = ofa_caption("photos", "missing.jpg", "--output", "captions.jsonl")
    assert result.returncode == 1
    assert sorted(names(tmp_path / "captions.jsonl")) == [name for name in images if not name.endswith("9.jpg")]
    failures = {record["image"]: record for record in records(tmp_path / "captions.jsonl.errors.jsonl")}
    assert failures.keys() == {"photos/0009.jpg", "photos/0019.jpg", "missing.jpg"}
    assert failures["photos/0009.jpg"]["code"] == "TRUNCATED_IMAGE"
    assert failures["photos/0009.jpg"]["reason"] == "it ends early. Fetch or export the file again."
    assert failures["missing.jpg"]["code"] == "UNREADABLE"


def test_a_second_run_does_what_is_new_and_says_what_failed(ofa_caption, photos, tmp_path):
    photos(10, broken=True)
    ofa_caption("photos", "--output", "captions.jsonl")
    before = (tmp_path / "captions.jsonl").read_bytes(), (tmp_path / "captions.jsonl.errors.jsonl").read_bytes()
    again = ofa_caption("photos", "--output", "captions.jsonl")
    assert again.returncode == 1
    assert "images without a caption: 1; captions.jsonl.errors.jsonl says why" in again.stderr
    after = (tmp_path / "captions.jsonl").read_bytes(), (tmp_path / "captions.jsonl.errors.jsonl").read_bytes()
    assert after == before
    photos(12)
    ofa_caption("photos", "--output", "captions.jsonl")
    assert len(names(tmp_path / "captions.jsonl")) == 11


def test_outputs_of_one_name_and_two_formats_keep_their_failures_apart(ofa_caption, photos, tmp_path):
    photos(10, broken=True)
    for suffix in ("jsonl", "csv"):
        result = ofa_caption("photos", "--output", f"captions.{suffix}")
        assert (result.returncode, len(names(tmp_path / f"captions.{suffix}.errors.jsonl"))) == (1, 1)


def test_what_failed_is_tried_again_when_told(ofa_caption, photos, tmp_path):
    photos(10, broken=True)
    ofa_caption("photos", "--output", "captions.jsonl")
    images = photos(10)
    result = ofa_caption("photos", "--output", "captions.jsonl", "--retry-failed")
    assert result.returncode == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == images
    assert (tmp_path / "captions.jsonl.errors.jsonl").read_bytes() == b""


def test_an_image_named_twice_is_captioned_once(ofa_caption, photos, tmp_path):
    photos(3)
    ofa_caption("photos", "photos/0001.jpg", "photos/*.jpg", "--output", "captions.jsonl")
    assert Counter(names(tmp_path / "captions.jsonl")).most_common(1)[0][1] == 1


def test_what_is_left_out_for_its_name_is_counted(ofa_caption, photos, tmp_path):
    photos(3)
    for _ in range(2):  # what an earlier run did is not left out for its name
        result = ofa_caption("photos", "photos/0001.jpg", "--output", "captions.jsonl")
        assert "ofa-caption: left out because their names came before: 1\n" in result.stderr
    assert "left out" not in ofa_caption("photos", "--output", "captions.jsonl").stderr


def test_the_progress_ends_with_all_there_is(ofa_caption, photos, tmp_path):
    photos(6)

    def last(*inputs):
        result = ofa_caption(*inputs, "--output", "captions.jsonl")
        return [line for line in result.stderr.splitlines() if not line.startswith("ofa-caption: ")][-1]

    (tmp_path / "list.txt").write_text("photos/0000.jpg\n" * 6)
    assert last("list.txt").startswith("#################### 100%  1/1 ")
    assert last("photos").startswith("#################### 100%  6/6 ")
    assert last("photos/0003.jpg").startswith("#################### 100%  1/1 ")


def test_names_that_come_again_in_a_table_count_once_at_the_end(ofa_caption, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra")
    import pyarrow

    parquet.write_table(pyarrow.table({"image": photos(4) * 2, "id": ["a", "b", "c", "d"] * 2}), tmp_path / "t.parquet")
    result = ofa_caption("t.parquet", "--key-column", "id", "--output", "captions.jsonl")
    assert result.stderr.splitlines()[-1].startswith("#################### 100%  4/4 ")


def test_a_table_that_is_damaged_costs_its_rows_alone(ofa_caption, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra")
    import pyarrow

    images = photos(6)
    parquet.write_table(
        pyarrow.table({"image": images}), tmp_path / "t.parquet", row_group_size=2, use_dictionary=False
    )
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    begin = parquet.read_metadata(tmp_path / "t.parquet").row_group(1).column(0).data_page_offset
    data[begin : begin + 16] = b"\xff" * 16
    (tmp_path / "t.parquet").write_bytes(data)
    assert ofa_caption("t.parquet", "--output", "captions.jsonl").returncode == 1
    assert sorted(names(tmp_path / "captions.jsonl")) == [f"t.parquet/{i}" for i in (0, 1, 4, 5)]
    assert names(tmp_path / "captions.jsonl.errors.jsonl") == ["t.parquet/2"]


def killed_when(process, path, lines, signal_number):
    """Wait until the output has so many lines, then send the signal."""
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < lines):
        time.sleep(0.01)
    process.send_signal(signal_number)
    return process.wait()


def test_kills_at_any_moment_lose_and_repeat_nothing(environment, ofa_caption, photos, held, tmp_path):
    arguments = [*COMMAND, "photos", "--output", "captions.jsonl", "--concurrency", "8"]
    for lines in (1, 60, 130):
        photos(300, broken=True, delay_s=0.02)
        (tmp_path / "photos/0298.jpg").write_bytes(held()[0])  # none ends before it is killed
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        assert killed_when(process, tmp_path / "captions.jsonl", lines, signal.SIGKILL) == -signal.SIGKILL
    images = photos(300, broken=True)
    assert ofa_caption("photos", "--output", "captions.jsonl").returncode == 1
    failed = [name for name in images if name.endswith("9.jpg")]
    assert sorted(names(tmp_path / "captions.jsonl")) == sorted(set(images) - set(failed))
    assert sorted(names(tmp_path / "captions.jsonl.errors.jsonl")) == failed


@pytest.mark.parametrize(
    ("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_keeps_what_is_done(environment, ofa_caption, photos, held, tmp_path, signal_number, status):
    photos(100, delay_s=0.05)
    (tmp_path / "photos/0099.jpg").write_bytes(held()[0])  # it does not end by itself
    arguments = [*COMMAND, "photos", "--output", "captions.jsonl", "--concurrency", "2"]
    pipes = {"stderr": subprocess.PIPE, "preexec_fn": heed_interrupts}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, **pipes)
    assert killed_when(process, tmp_path / "captions.jsonl", 5, signal_number) == status
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    photos(100)
    ofa_caption("photos", "--output", "captions.jsonl")
    assert len(set(names(tmp_path / "captions.jsonl"))) == len(names(tmp_path / "captions.jsonl")) == 100


def test_a_server_that_goes_away_ends_the_run_and_no_image_fails(ofa_caption, photos, tmp_path, closed_port):
    photos(10)
    away = f"grpc://127.0.0.1:{closed_port}"
    result = ofa_caption("photos", "--output", "captions.jsonl", "--url", away, "--patience", "0.5")
    assert result.returncode == 2
    assert "ofa-caption: UNAVAILABLE: " in result.stderr
    assert (tmp_path / "captions.jsonl.errors.jsonl").read_bytes() == b""
    assert ofa_caption("photos", "--output", "captions.jsonl").returncode == 0


def test_a_server_that_restarts_costs_no_image(environment, photos, tmp_path):
    images = photos(100)

    def slow(request, context):
        time.sleep(0.02)
        return one_caption(request, context)

    with grpc_server(slow) as url:
        arguments = [*COMMAND, "photos", "--output", "captions.jsonl", "--concurrency", "4", "--url", url]
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(names(tmp_path / "captions.jsonl")) < 20:
            time.sleep(0.05)
    with grpc_server(slow, port=int(url.rpartition(":")[2])):
        assert process.wait(300) == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == images
    assert names(tmp_path / "captions.jsonl.errors.jsonl") == []


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_host_that_falls_silent_costs_no_image(environment, photos, scripted, tmp_path, protocol):
    images = photos(60, delay_s=0.1)
    with relay(getattr(scripted, protocol)) as (url, fall_silent):
        arguments = [*COMMAND, "photos", "--output", "captions.jsonl", "--url", url]
        arguments += ["--concurrency", "4", "--timeout", "4"]
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        eventually(lambda: len(names(tmp_path / "captions.jsonl")) >= 20)
        fall_silent()
        assert process.wait(300) == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == images


def test_a_host_that_stays_silent_ends_the_run_and_no_image_fails(ofa_caption, photos, tmp_path):
    photos(3)
    patience = ["--timeout", "1", "--patience", "0.5"]
    with http_server(None) as url:
        result = ofa_caption("photos", "--output", "captions.jsonl", "--url", url, *patience)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("ofa-caption: DEADLINE_EXCEEDED: http://127.0.0.1:")
    assert (tmp_path / "captions.jsonl.errors.jsonl").read_bytes() == b""


def errors_of(tmp_path):
    return {record["image"]: record["code"] for record in records(tmp_path / "captions.jsonl.errors.jsonl")}


def of(image):
    """Tell whether a request is for this image, for a server's behaviour."""
    return lambda request: image in request.raw_input_contents[0]


def but_for(mine, poisoned):
    """Behave like this for one image, and well for the others, after a while."""

    def behave(request, context):
        if mine(request):
            return poisoned(request, context)
        time.sleep(0.4)
        return one_caption(request, context)

    return behave


FULL = refuse(grpc.StatusCode.UNAVAILABLE, "OVERLOADED: full")


def silent(request, context):
    given_up = threading.Event()
    context.add_callback(given_up.set)
    given_up.wait(10)
    return one_caption(request, context)


@pytest.mark.parametrize("output", [[], ["--output", "captions.jsonl"]])
@pytest.mark.parametrize(("behave", "code"), [(FULL, "OVERLOADED"), (silent, "DEADLINE_EXCEEDED")])
def test_an_image_that_alone_gets_no_answer_fails_and_the_others_are_captioned(
    ofa_caption, photos, tmp_path, behave, code, output
):
    photos(30)  # the others take longer than the timeout, so that some are captioned after it
    with grpc_server(but_for(of(b"photo 0"), behave)) as url:
        result = ofa_caption("photos", *output, "--url", url, "--timeout", "3", "--patience", "4", "--concurrency", 3)
    assert result.returncode == 1
    if output:
        assert len(names(tmp_path / "captions.jsonl")) == 29
        assert errors_of(tmp_path) == {"photos/0000.jpg": code}
    else:
        assert len(result.stdout.splitlines()) == 29
        assert result.stderr.startswith(f"photos/0000.jpg: {code}: ")


def test_a_server_that_stays_full_ends_the_run_and_no_image_fails(ofa_caption, photos, tmp_path):
    photos(12)
    with grpc_server(FULL) as url:
        result = ofa_caption("photos", "--output", "captions.jsonl", "--url", url, "--patience", "0.5")
    assert (result.returncode, errors_of(tmp_path)) == (2, {})


IN_A_ROW = "ofa-caption: 8 images in a row failed as all do where network, disk or server are broken"


def test_a_server_that_is_broken_ends_the_run_and_no_image_fails(ofa_caption, photos, tmp_path):
    images = photos(40)
    with grpc_server(refuse(grpc.StatusCode.INTERNAL, "INTERNAL: see 4711")) as url:
        broken = ["--url", url, "--concurrency", "2", "--output"]
        result = ofa_caption("photos", *broken, "captions.jsonl")
        assert (result.returncode, errors_of(tmp_path)) == (2, {})
        assert result.stderr.splitlines()[-1].startswith(IN_A_ROW)
        assert "INTERNAL: see 4711" in result.stderr
        assert ofa_caption("photos", *broken, "own.jsonl", "--patience", "0").returncode == 1
        assert len(names(tmp_path / "own.jsonl.errors.jsonl")) == 40
    assert ofa_caption("photos", "--output", "captions.jsonl").returncode == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == images


def test_a_few_faults_are_the_images_own(ofa_caption, photos, tmp_path):
    images = photos(40)
    with grpc_server(but_for(of(b"9"), refuse(grpc.StatusCode.INTERNAL, "INTERNAL: see 4711"))) as url:
        result = ofa_caption("photos", "--output", "captions.jsonl", "--url", url, "--concurrency", "2")
    assert result.returncode == 1
    assert errors_of(tmp_path) == {name: "INTERNAL" for name in images if "9" in name}


def test_a_disk_that_is_gone_ends_the_run_and_no_image_fails(ofa_caption, photos, tmp_path):
    images = photos(40)
    for name in images[10:]:
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/proc/self/mem")  # its reading is an input/output error
    result = ofa_caption("photos", "--output", "captions.jsonl", "--concurrency", "2")
    assert (result.returncode, errors_of(tmp_path)) == (2, {})
    assert result.stderr.splitlines()[-1].startswith(IN_A_ROW)
    assert "UNREADABLE: Input/output error" in result.stderr
    photos(0)
    for name in images[10:]:
        (tmp_path / name).unlink()  # these are the images' own: someone has removed them
    images = [f"photos/{i:04d}.jpg" for i in range(40)]
    assert ofa_caption(*images, "--output", "captions.jsonl", "--concurrency", "2").returncode == 1
    assert set(errors_of(tmp_path)) == set(images[10:])


def test_a_network_that_is_down_ends_the_run_and_no_url_fails(ofa_caption, tmp_path, closed_port):
    urls = [f"http://127.0.0.1:{closed_port}/{i}.jpg" for i in range(20)]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    arguments = ["list.txt", "--output", "captions.jsonl", "--concurrency", "2", "--patience", "0.5"]
    result = ofa_caption(*arguments)
    assert (result.returncode, errors_of(tmp_path)) == (2, {})
    assert result.stderr.splitlines()[-1].startswith(IN_A_ROW)
    with http_server(http_answer("200 OK", "an image"), port=closed_port):
        assert ofa_caption(*arguments).returncode == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == sorted(urls)


def test_a_network_that_is_down_for_a_while_is_waited_for(environment, tmp_path, closed_port):
    urls = [f"http://127.0.0.1:{closed_port}/{i}.jpg" for i in range(20)]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    arguments = [*COMMAND, "list.txt", "--output", "captions.jsonl", "--concurrency", "2"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    time.sleep(4)
    with http_server(http_answer("200 OK", "an image"), port=closed_port):
        assert process.wait(300) == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == sorted(urls)


def test_a_bad_url_among_good_ones_fails_alone(ofa_caption, tmp_path, closed_port):
    with http_server(http_answer("200 OK", "an image")) as images:
        bad = f"http://127.0.0.1:{closed_port}/cat.jpg"
        (tmp_path / "list.txt").write_text("\n".join([bad, *(f"{images}/{i}.jpg" for i in range(200))]))
        result = ofa_caption("list.txt", "--output", "captions.jsonl", "--concurrency", "2", "--patience", "100")
    assert (result.returncode, errors_of(tmp_path)) == (1, {bad: "FETCH_FAILED"})
    assert len(names(tmp_path / "captions.jsonl")) == 200


def test_a_list_in_a_pipe_loses_no_line(environment, photos, tmp_path):
    images = photos(200)
    os.mkfifo(tmp_path / "list.txt")
    arguments = [*COMMAND, "list.txt", "--output", "captions.jsonl"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    with (tmp_path / "list.txt").open("w") as lines:
        for name in images:
            lines.write(f"{name}\n")
            lines.flush()
    assert process.wait(300) == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == images


@pytest.mark.parametrize("nowhere", ["2>/dev/full", "2>&-", "2> >(exec true)"])
def test_progress_that_nobody_takes_ends_nothing(environment, photos, tmp_path, nowhere):
    images = photos(20, broken=True)
    command = f"exec {sys.executable} -m ofa_client photos --output captions.jsonl {nowhere}"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False).returncode == 1
    assert len(names(tmp_path / "captions.jsonl")) == 18
    assert len(names(tmp_path / "captions.jsonl.errors.jsonl")) == 2
    photos(20)
    command += " --retry-failed"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert sorted(names(tmp_path / "captions.jsonl")) == images


def test_shards_together_are_the_whole(ofa_caption, photos, tmp_path):
    images = photos(40)
    for i in range(3):
        assert ofa_caption("photos", "--output", "captions.jsonl", OFA_SHARD=f"{i}/3").returncode == 0
    parts = sorted(tmp_path.glob("captions-*-of-00003.jsonl"))
    assert len(parts) == 3
    assert sorted(name for part in parts for name in names(part)) == images


def test_two_runs_at_once_on_one_file_are_refused(environment, ofa_caption, photos, held, tmp_path):
    photos(3)
    (tmp_path / "photos/0002.jpg").write_bytes(held()[0])  # the first does not end by itself
    arguments = [*COMMAND, "photos", "--output", "captions.jsonl", "--concurrency", "1"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    output = tmp_path / "captions.jsonl"
    eventually(lambda: output.exists() and output.read_bytes())
    second = ofa_caption("photos", "--output", "captions.jsonl")
    process.kill()
    process.wait()
    assert second.returncode == 2
    assert "another process is writing to captions.jsonl" in second.stderr


def test_csv_is_made_when_all_is_done(ofa_caption, photos, tmp_path):
    photos(10, broken=True)
    assert ofa_caption("photos", "--output", "captions.csv").returncode == 1
    with (tmp_path / "captions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 9
    assert ofa_caption("photos", "--output", "captions.csv", "--retry-failed").returncode == 1


def test_coco_results_are_made_when_all_is_done(ofa_caption, photos, tmp_path):
    photos(3)
    assert ofa_caption("photos", "--output", "results.json").returncode == 0
    made = json.loads((tmp_path / "results.json").read_text())
    assert sorted((one["image_id"], one["caption"]) for one in made) == [(i, f"photo {i}") for i in range(3)]


def test_a_dry_run_names_what_is_left_and_touches_nothing(ofa_caption, photos, tmp_path, closed_port):
    photos(4)
    ofa_caption("photos/0001.jpg", "--output", "captions.jsonl")
    before = sorted(path.name for path in tmp_path.iterdir()), (tmp_path / "captions.jsonl").read_bytes()
    away = f"grpc://127.0.0.1:{closed_port}"
    result = ofa_caption("photos", "photos/0000.jpg", "--output", "captions.jsonl", "--dry-run", "--url", away)
    assert result.stdout.splitlines() == ["photos/0000.jpg", "photos/0002.jpg", "photos/0003.jpg"]
    assert (result.stderr, result.returncode) == ("3 images to caption, 1 done already, 1 named again\n", 0)
    assert (sorted(path.name for path in tmp_path.iterdir()), (tmp_path / "captions.jsonl").read_bytes()) == before


def test_another_file_is_not_written_over(ofa_caption, photos, tmp_path):
    photos(1)
    (tmp_path / "captions.jsonl").write_text("my notes\n")
    result = ofa_caption("photos", "--output", "captions.jsonl")
    assert result.returncode == 2
    assert (tmp_path / "captions.jsonl").read_text() == "my notes\n"


def test_a_folder_that_is_not_there_is_said(ofa_caption, photos):
    photos(1)
    result = ofa_caption("photos", "--output", "nowhere/captions.jsonl")
    assert (result.returncode, result.stderr) == (2, "ofa-caption: nowhere/captions.jsonl: No such file or directory\n")


def test_a_data_set_gives_way_to_interactive_requests(ofa_caption, tmp_path, script):
    (tmp_path / "cat.jpg").write_bytes(script(echo=True))
    ofa_caption("cat.jpg", "--output", "captions.jsonl")
    [record] = records(tmp_path / "captions.jsonl")
    assert json.loads(record["captions"][0]["text"])["parameters"]["priority_class"] == "batch"


def test_a_terminal_sees_the_bar(environment, photos, tmp_path):
    photos(5)
    ours, theirs = pty.openpty()
    arguments = [*COMMAND, "photos", "--output", "captions.jsonl"]
    subprocess.run(arguments, cwd=tmp_path, env=environment, stderr=theirs, check=True, timeout=300)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end: nobody has the other side open
        while more := os.read(ours, 1 << 16):  # the system passes it on in pieces
            shown += more
    os.close(ours)
    assert re.search(r"\r#{20} 100%  5/5  [\d.]+/s", shown.decode())
