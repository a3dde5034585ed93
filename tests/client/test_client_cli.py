"""``ofa-caption`` as a user runs it: output, order, exit status, errors on one line, flags and variables."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import threading
import uuid

import pytest
from ofa_client import contract

from command_line import COMMAND
from interrupts import heed_interrupts
from nonsense_servers import grpc_server, one_caption
from patience import eventually


@pytest.fixture
def image(tmp_path, script):
    """Write an image that gets these captions, or that does what the keywords say."""

    def write(name, *captions, **keys):
        (tmp_path / name).write_bytes(script(**({"captions": captions} if captions else {}), **keys))
        return name

    return write


def test_prints_path_and_caption(ofa_caption, image, url):
    result = ofa_caption("--url", url, image("cat.jpg", "a cat"), image("dog.jpg", "a dog"))
    assert (result.stdout, result.stderr, result.returncode) == ("cat.jpg: a cat\ndog.jpg: a dog\n", "", 0)


def test_prints_one_json_object_a_line(ofa_caption, image):
    result = ofa_caption("--json", image("cat.jpg", "a cat"), image("zh.jpg", "一只猫"))
    assert result.stdout.splitlines() == [
        '{"image": "cat.jpg", "captions": [{"text": "a cat", "score": -0.25}]}',
        '{"image": "zh.jpg", "captions": [{"text": "一只猫", "score": -0.25}]}',
    ]


def test_prints_the_best_captions_of_an_image(ofa_caption, tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"an image")
    digest = hashlib.sha256(b"an image").hexdigest()[:12]
    result = ofa_caption("--num-captions", "2", "cat.jpg")
    assert result.stdout == f"cat.jpg: image {digest}, caption 0\ncat.jpg: image {digest}, caption 1\n"
    record = json.loads(ofa_caption("--num-captions", "2", "--json", "cat.jpg").stdout)
    assert [caption["score"] for caption in record["captions"]] == [-0.25, -0.5]


def test_details_are_in_the_json(ofa_caption, image):
    record = json.loads(ofa_caption("--json", "--details", image("cat.jpg", "a cat")).stdout)
    assert record["captions"] == [
        {"text": "a cat", "score": -0.25, "tokens": [4, 5, 2], "token_logprobs": [-0.5, -0.5, -0.5]}
    ]
    assert record["timing_ms"] == dict(zip(contract.STAGES, [0.5, 1, 2, 3, 4]))


def test_details_without_json_are_refused(ofa_caption, image):
    result = ofa_caption("--details", image("cat.jpg", "a cat"))
    assert result.returncode == 2
    assert "--details needs --json or --output" in result.stderr


@pytest.mark.parametrize("flag", [["--errors", "e.jsonl"], ["--format", "csv"], ["--retry-failed"]])
def test_what_is_about_a_file_needs_one(ofa_caption, image, flag):
    result = ofa_caption(*flag, image("cat.jpg", "a cat"))
    assert result.returncode == 2
    assert f"{flag[0]} needs --output" in result.stderr


def test_a_folder_without_images_is_said_to_be_one(ofa_caption, tmp_path):
    (tmp_path / "empty").mkdir()
    result = ofa_caption("empty")
    assert (result.stdout, result.stderr) == ("", "ofa-caption: empty holds no image\n")
    assert result.returncode == 0


def test_inputs_without_an_image_are_named_beside_others(ofa_caption, image, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("\n")
    empty = ["ofa-caption: empty holds no image", "ofa-caption: list.txt holds no image"]
    result = ofa_caption("empty", image("cat.jpg", "a cat"), "list.txt")
    assert (result.stdout, result.stderr.splitlines(), result.returncode) == ("cat.jpg: a cat\n", empty, 0)
    result = ofa_caption("empty", "cat.jpg", "list.txt", "--dry-run")
    assert result.stderr.splitlines() == ["1 images to caption, 0 done already", *empty]
    result = ofa_caption("empty", "*.gif")
    assert result.stderr.splitlines() == ["*.gif: UNREADABLE: no file matches", empty[0]]
    assert result.returncode == 1


def test_a_shard_without_an_image_does_not_say_that_there_is_none(ofa_caption, image):
    image("cat.jpg", "a cat")
    results = [ofa_caption(".", OFA_SHARD=f"{i}/2") for i in range(2)]
    assert sorted(result.stderr for result in results) == ["", "ofa-caption: this shard of the inputs holds no image\n"]


def test_a_bad_image_is_one_line_and_the_others_go_on(ofa_caption, image):
    images = image("cat.jpg", "a cat"), image("bad.jpg", error="TRUNCATED_IMAGE: it ends early"), "missing.jpg", "*.gif"
    result = ofa_caption(*images, image("dog.jpg", "a dog"))
    assert result.stdout == "cat.jpg: a cat\ndog.jpg: a dog\n"
    assert result.stderr.splitlines() == [
        "bad.jpg: TRUNCATED_IMAGE: it ends early. Fetch or export the file again.",
        "missing.jpg: UNREADABLE: No such file or directory",
        "*.gif: UNREADABLE: no file matches",
    ]
    assert result.returncode == 1


def test_captions_come_in_order_whichever_is_done_first(ofa_caption, image):
    images = [image(f"{i}.jpg", f"number {i}", delay_s=0.4 - i / 10) for i in range(5)]
    assert ofa_caption(*images).stdout == "".join(f"{i}.jpg: number {i}\n" for i in range(5))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_images_in_flight_are_bounded(ofa_caption, image, concurrency):
    own = {"group": str(uuid.uuid4()), "until": concurrency}
    images = [image(f"{i}.jpg", echo=True, **own, delay_s=0.3) for i in range(6)]
    result = ofa_caption("--json", "--concurrency", str(concurrency), *images)
    texts = [json.loads(line)["captions"][0]["text"] for line in result.stdout.splitlines()]
    assert max(json.loads(text)["in_flight"] for text in texts) == concurrency


def test_each_caption_is_written_when_it_is_there(environment, image, held, tmp_path):
    second, let_go = held(captions=["a dog"])
    (tmp_path / "second.jpg").write_bytes(second)
    arguments = [*COMMAND, image("first.jpg", "a cat"), "second.jpg"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"first.jpg: a cat\n"
    assert process.poll() is None
    let_go()
    assert process.communicate()[0] == b"second.jpg: a dog\n"


def received(result):
    return json.loads(json.loads(result.stdout)["captions"][0]["text"])


FLAGS = {
    "beam_size": 8,
    "num_captions": 2,
    "max_length": 20,
    "min_length": 3,
    "no_repeat_ngram_size": 2,
    "length_penalty": 0.5,
    "temperature": 1.5,
    "unk_penalty": 2,
}


def test_every_request_parameter_is_a_flag(ofa_caption, image):
    flags = [text for name, value in FLAGS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    arrived = received(ofa_caption("--json", *flags, "--timeout", "75.5", image("cat.jpg", echo=True)))
    assert {name: float(value) for name, value in arrived["parameters"].items()} == FLAGS
    assert 50_000_000 < arrived["timeout_us"] <= 75_500_000


def test_every_flag_is_a_variable(ofa_caption, image):
    variables = {f"OFA_{name.upper()}": str(value) for name, value in FLAGS.items()}
    arrived = received(ofa_caption(image("cat.jpg", echo=True), OFA_JSON="1", OFA_TIMEOUT="75.5", **variables))
    assert {name: float(value) for name, value in arrived["parameters"].items()} == FLAGS
    assert 50_000_000 < arrived["timeout_us"] <= 75_500_000


def test_a_flag_wins_over_its_variable(ofa_caption, image):
    flags = ["--no-json", "--model", "ofa_caption", "--concurrency", "2"]
    result = ofa_caption(*flags, image("cat.jpg", "a cat"), OFA_JSON="true", OFA_MODEL="other", OFA_CONCURRENCY="-1")
    assert result.stdout == "cat.jpg: a cat\n"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"OFA_BEAM_SIZE": "many"}, "argument --beam-size: invalid int value: 'many'"),
        ({"OFA_CONCURRENCY": "0"}, "argument --concurrency: must be at least 1, not 0"),
        ({"OFA_CA_FILE": "missing.pem"}, "argument --ca-file: no such file: missing.pem"),
        ({"OFA_TIMEOUT": "0"}, "argument --timeout: must be above 0 and at most 86400, not 0"),
        ({"OFA_TIMEOUT": "nan"}, "argument --timeout: must be above 0 and at most 86400, not nan"),
        ({"OFA_PATIENCE": "-1"}, "argument --patience: must be at least 0 and at most 86400, not -1"),
        ({"OFA_PATIENCE": "86401"}, "argument --patience: must be at least 0 and at most 86400, not 86401"),
        ({"OFA_SHARD": "8/8"}, "argument --shard: a shard is i/n with i from 0 to n-1, such as 0/8, not '8/8'"),
        ({"OFA_HEADER": "nothing"}, "argument --header: must be NAME: VALUE, not 'nothing'"),
        ({"OFA_PRIORITY_CLASS": "urgent"}, "argument --priority-class: must be interactive or batch, not 'urgent'"),
        ({"OFA_OUTPUT": "captions.doc"}, "the format of captions.doc is not clear"),
        ({"OFA_URL": "localhost"}, "must look like grpc://host:8001"),
    ],
)
def test_a_wrong_variable_is_named(ofa_caption, image, variables, reason):
    result = ofa_caption(image("cat.jpg", "a cat"), **variables)
    assert (result.stdout, result.returncode) == ("", 2)
    assert reason in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_an_unreachable_server_is_one_line(ofa_caption, image, closed_port, scheme):
    images = [image(f"{i}.jpg", "a cat") for i in range(12)]
    result = ofa_caption("--url", f"{scheme}://127.0.0.1:{closed_port}", "--patience", "1", *images)
    assert (result.stdout, result.returncode) == ("", 2)
    [line] = result.stderr.splitlines()
    assert line.startswith(f"ofa-caption: UNAVAILABLE: cannot get an answer from {scheme}://127.0.0.1:{closed_port} (")


@pytest.mark.parametrize(
    ("keys", "code"), [({"error": "INVALID_PARAMETER: beam_size is 99; it must be 1 to 16"}, "INVALID_PARAMETER")]
)
def test_what_every_image_would_meet_is_said_once(ofa_caption, image, keys, code):
    result = ofa_caption(*[image(f"{i}.jpg", **keys) for i in range(12)])
    assert (result.stdout, result.returncode) == ("", 2)
    [line] = result.stderr.splitlines()
    assert line.startswith(f"ofa-caption: {code}: ")


def test_an_unknown_model_is_said_once(ofa_caption, image):
    result = ofa_caption("--model", "nothing", image("a.jpg", "a cat"), image("b.jpg", "a dog"))
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("ofa-caption: MODEL_NOT_FOUND: ")


def test_an_input_that_cannot_be_read_at_all_is_said_once(ofa_caption, image):
    result = ofa_caption(*[image(f"{i}.jpg", "a cat") for i in range(12)], "missing.txt")
    assert result.returncode == 2
    assert result.stderr == "ofa-caption: missing.txt: No such file or directory\n"


def test_ctrl_c_ends_quietly(environment, image, tmp_path):
    arguments = [*COMMAND, image("first.jpg", "a cat"), image("second.jpg", "a dog", delay_s=50)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_interrupts}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, **pipes)
    assert process.stdout.readline() == b"first.jpg: a cat\n"
    process.send_signal(signal.SIGINT)
    answers, complaints = process.communicate()
    assert (process.returncode, answers, complaints) == (130, b"", b"")  # it did not wait for the second


def test_a_reader_that_has_enough_ends_it_quietly(environment, image, held, tmp_path):
    later, let_go = held(until=4, captions=["a cat"])
    for i in range(1, 4):
        (tmp_path / f"{i}.jpg").write_bytes(later)
    arguments = [*COMMAND, image("0.jpg", "a cat"), "1.jpg", "2.jpg", "3.jpg"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"0.jpg: a cat\n"
    process.stdout.close()
    let_go()
    assert (process.wait(60), process.stderr.read()) == (1, b"")
    process.stderr.close()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_what_is_closed_is_empty_or_nowhere(environment, image, tmp_path, closed, flags):
    arguments = [*COMMAND, image("cat.jpg", "a cat"), "-", *flags]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *arguments]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
    )
    assert result.stdout == (b"" if ">&-" in closed else b"cat.jpg\n" if flags else b"cat.jpg: a cat\n")


def test_a_file_name_need_not_be_text(ofa_caption, image):
    name = image(os.fsdecode(b"caf\xe9.jpg"), "a cat")
    assert ofa_caption(name).stdout == "caf\\udce9.jpg: a cat\n"
    assert json.loads(ofa_caption("--json", name).stdout)["image"] == name


def test_nor_do_the_lines_of_standard_input(environment, image, tmp_path):
    name = image(os.fsdecode(b"caf\xe9.jpg"), "a cat")
    result = subprocess.run(
        [*COMMAND, "-"], cwd=tmp_path, env=environment, input=os.fsencode(name), stdout=subprocess.PIPE, check=True
    )
    assert result.stdout == b"caf\\udce9.jpg: a cat\n"


@pytest.mark.parametrize("output", [[], ["--output", "captions.jsonl"]])
def test_a_line_of_standard_input_is_answered_before_the_next(environment, image, tmp_path, output):
    process = subprocess.Popen(
        [*COMMAND, "-", *output],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for i in range(3):
        process.stdin.write(image(f"{i}.jpg", f"number {i}").encode() + b"\n")
        process.stdin.flush()
        if output:
            written = tmp_path / "captions.jsonl"
            eventually(lambda: written.exists() and written.read_bytes().count(b"\n") == i + 1)  # noqa: B023
        else:
            assert process.stdout.readline() == f"{i}.jpg: number {i}\n".encode()
    process.communicate()
    assert process.returncode == 0


def test_a_line_that_came_before_is_answered_as_well(environment, image, tmp_path):
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    process = subprocess.Popen([*COMMAND, "-"], cwd=tmp_path, env=environment, **pipes)
    timer = threading.Timer(120, process.kill)
    timer.start()
    for _ in range(3):
        process.stdin.write(image("cat.jpg", "a cat").encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"cat.jpg: a cat\n"
    timer.cancel()
    process.communicate()
    assert process.returncode == 0


def test_a_pipe_that_nobody_writes_to_fails_and_does_not_hold_the_end_up(ofa_caption, image, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    result = ofa_caption("--timeout", "4", "--patience", "0", "pipe.jpg", image("cat.jpg", "a cat"))
    assert (result.stdout, result.returncode) == ("cat.jpg: a cat\n", 1)
    assert result.stderr.startswith("pipe.jpg: DEADLINE_EXCEEDED: pipe.jpg was not read within 8 seconds")


def test_nor_does_it_hold_a_signal_up(environment, image, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    arguments = [*COMMAND, image("cat.jpg", "a cat"), "pipe.jpg"]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, **pipes)
    assert process.stdout.readline() == b"cat.jpg: a cat\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert process.communicate() == (b"", b"")


@pytest.mark.parametrize(
    ("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_while_it_waits_for_a_line(environment, image, tmp_path, signal_number, status):
    pipes = {**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), "preexec_fn": heed_interrupts}
    process = subprocess.Popen([*COMMAND, "-"], cwd=tmp_path, env=environment, **pipes)
    process.stdin.write(image("cat.jpg", "a cat").encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"cat.jpg: a cat\n"
    process.send_signal(signal_number)
    assert process.wait(60) == status
    assert process.stderr.read() == b""
    process.communicate()


def test_a_server_that_is_away_ends_it_while_it_waits_for_a_line(environment, image, tmp_path, closed_port):
    arguments = [*COMMAND, "-", "--patience", "0", "--url", f"grpc://127.0.0.1:{closed_port}"]
    pipes = dict.fromkeys(("stdin", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, **pipes)
    process.stdin.write(image("cat.jpg", "a cat").encode() + b"\n")
    process.stdin.flush()
    assert process.wait(60) == 2
    assert process.stderr.read().startswith(b"ofa-caption: UNAVAILABLE: ")
    process.communicate()


def test_json_is_whole_where_the_terminal_is_not_unicode(ofa_caption, image):
    result = ofa_caption("--json", image("zh.jpg", "一只猫 🐈"), encoding="latin-1", PYTHONIOENCODING="latin-1")
    assert json.loads(result.stdout)["captions"][0]["text"] == "一只猫 🐈"


def test_keys_and_headers_travel_to_each_replica(ofa_caption, image):
    metadata = []

    def behave(request, context):
        metadata.append(dict(context.invocation_metadata()))
        return one_caption(request, context)

    headers = ["--header", "X-Tenant: blue", "--header", "X-Run: 7"]
    with grpc_server(behave) as one, grpc_server(behave) as two:
        images = [image(f"{i}.jpg", "a cat") for i in range(4)]
        result = ofa_caption("--url", f"{one},{two}", *headers, *images, OFA_API_KEY="s3cret", OFA_HEADER="X-No: x")
    assert result.returncode == 0
    assert len(metadata) == 4
    for each in metadata:
        assert (each["authorization"], each["x-tenant"], each["x-run"]) == ("Bearer s3cret", "blue", "7")


def test_help_names_every_variable(ofa_caption):
    text = ofa_caption("--help", COLUMNS="400").stdout
    flags = set(re.findall(r"^  --([a-z-]+)", text, re.MULTILINE)) - {"version"}
    assert len(flags) > 25
    for flag in flags:
        assert f"[OFA_{flag.replace('-', '_').upper()}" in text
