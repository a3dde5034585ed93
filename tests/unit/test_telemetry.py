"""What a server tells of each request: log lines that share its id, and spans. On Triton: tests/server."""

import io
import json
import logging
from functools import partial
from types import SimpleNamespace

import pytest
from ofa_serving.contract import Code
from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.settings import Ports, parse_settings
from ofa_serving.launcher.triton import tracing_flags, triton_command
from ofa_serving.metrics import CANARIES_VARIABLE, OK
from ofa_serving.telemetry.logs import FIELDS, JsonFormatter, TextFormatter, json_of_triton
from ofa_serving.telemetry.origin import Origin
from ofa_serving.telemetry.requests import REQUESTS_VARIABLE, RequestLog
from ofa_serving.telemetry.spans import NoSpans, open_spans

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(message="captioned", level=logging.INFO, **fields):
    made = logging.LogRecord("ofa", level, "file.py", 1, message, (), None)
    setattr(made, FIELDS, fields)
    return made


def test_a_record_is_one_json_object_with_its_fields():
    line = json.loads(JsonFormatter().format(record("two\nlines", request_id="7", code=Code.OVERLOADED)))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "ofa",
        "message": "two\nlines",
        "request_id": "7",
        "code": "OVERLOADED",
    }


def test_an_exception_stays_on_the_records_line():
    try:
        raise ValueError("wrong")
    except ValueError as error:
        made = record()
        made.exc_info = (type(error), error, error.__traceback__)
    text = JsonFormatter().format(made)
    assert "\n" not in text
    assert "ValueError: wrong" in json.loads(text)["exception"]


def test_a_record_as_text_shows_its_fields_behind_the_message():
    assert TextFormatter().format(record(code="OK", seconds=0.2)).endswith("INFO ofa: captioned code=OK seconds=0.2")


def test_tritons_lines_become_objects():
    line = json_of_triton("2026-11-22T10:59:40Z W 7238 model_lifecycle.cc:839] \"loaded 'a'\\nat last\"")
    assert json.loads(line) == {
        "time": "2026-11-22T10:59:40Z",
        "level": "WARNING",
        "logger": "triton",
        "message": "loaded 'a'\nat last",
        "source": "model_lifecycle.cc:839",
    }


@pytest.mark.parametrize("line", ["| Model | Version |", "", "Signal (15) received.", "2026-11-22T10:59:40Z X"])
def test_what_is_not_a_log_line_becomes_an_object_too(line):
    assert json.loads(json_of_triton(line))["message"] == line


def test_what_the_models_log_as_json_stays_as_it_is():
    line = JsonFormatter().format(record())
    assert json_of_triton(line) == line


def request(request_id="", context=None):
    trace = SimpleNamespace(get_context=lambda: json.dumps({"traceparent": context}) if context else None)
    return SimpleNamespace(request_id=lambda: request_id, trace=lambda: trace)


@pytest.mark.parametrize("header", ["x-request-id", "X-Request-Id"])
def test_the_proxys_id_is_the_requests_and_no_parameter_of_the_search(header):
    parameters = {header: "proxy-1", "beam_size": 4}
    assert Origin.take(request("mine"), parameters, traced=False) == Origin("proxy-1", None)
    assert parameters == {"beam_size": 4}


def test_without_a_proxy_the_clients_id_counts_and_without_one_a_new_one():
    assert Origin.take(request("mine"), {}, traced=False).request_id == "mine"
    first, second = (Origin.take(request(), {}, traced=False).request_id for _ in range(2))
    assert first != second


@pytest.mark.parametrize("unsound", ["two words", "x" * 129, "line\nbreak", "\x00", "ä"])
def test_an_id_that_could_garble_a_log_is_replaced(unsound):
    assert Origin.take(request(unsound), {}, traced=False).request_id != unsound


def test_the_span_is_looked_for_only_in_a_traced_server():
    assert Origin.take(request("a", PARENT), {}, traced=True).traceparent == PARENT
    assert Origin.take(request("a", PARENT), {}, traced=False).traceparent is None
    assert Origin.take(request("a"), {}, traced=True).traceparent is None


OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("opened", [None, OTHER])
def test_a_callers_trace_that_triton_lost_goes_on(opened):
    parameters = {"traceparent": PARENT}
    assert Origin.take(request("a", opened), parameters, traced=True).traceparent == PARENT
    assert not parameters


def test_tritons_span_within_the_callers_trace_is_the_nearer_parent():
    nearer = PARENT.replace("b7ad6b7169203331", "00f067aa0ba902b7")
    assert Origin.take(request("a", nearer), {"traceparent": PARENT}, traced=True).traceparent == nearer


@pytest.mark.parametrize(
    "callers",
    [PARENT[:-2] + "00", PARENT + "-", PARENT.upper(), "00-" + "0" * 32 + PARENT[35:], "ff" + PARENT[2:], "x", 5],
    ids=["not sampled", "longer", "upper case", "no trace", "no version", "nonsense", "a number"],
)
def test_a_callers_trace_that_is_not_to_be_recorded_or_not_sound_is_left(callers):
    assert Origin.take(request("a"), {"traceparent": callers}, traced=True).traceparent is None
    assert Origin.take(request("a", OTHER), {"traceparent": callers}, traced=True).traceparent == OTHER


def test_without_tracing_a_traceparent_is_a_parameter_like_any_other():
    parameters = {"traceparent": PARENT}
    assert Origin.take(request("a"), parameters, traced=False).traceparent is None
    assert parameters


@pytest.fixture
def lines():
    """What the request log writes, as it is asked for: a function from mode to the log and its lines."""
    logger, out = logging.getLogger("ofa.request"), io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)

    def run(mode):
        log = RequestLog("ofa_caption", {REQUESTS_VARIABLE: mode, CANARIES_VARIABLE: "canary-1"})
        log.answered("a", OK, 0.25, images=1)
        log.answered("b", Code.OVERLOADED, 0)
        log.answered("canary-1", OK, 0.1)
        log.stage("searched", "a", tokens=7)
        return [json.loads(line) for line in out.getvalue().splitlines()]

    yield run
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("mode", "logged"),
    [
        ("", []),
        ("none", []),
        ("refused", [("answered", "b")]),
        ("all", [("answered", "a"), ("answered", "b"), ("searched", "a")]),
    ],
)
def test_the_mode_says_which_requests_get_lines(lines, mode, logged):
    assert [(line["message"], line["request_id"]) for line in lines(mode)] == logged


def test_a_line_has_the_code_the_time_and_the_model(lines):
    line = lines("all")[0]
    assert (line["code"], line["seconds"], line["model"], line["images"]) == ("OK", 0.25, "ofa_caption", 1)


def test_a_server_that_is_not_traced_opens_no_spans():
    spans = open_spans("ofa_caption", {})
    assert isinstance(spans, NoSpans)
    with spans.within("search", PARENT) as parent:
        assert parent is None


def test_triton_traces_to_the_same_collector():
    flags = tracing_flags("http://collector:4318/v1/traces", 50)
    assert "--trace-config=opentelemetry,url=http://collector:4318/v1/traces" in flags
    assert "--trace-config=rate=50" in flags
    assert tracing_flags("", 50) == []


def test_a_cache_is_made_only_if_it_has_a_size(tmp_path):
    installation = Installation(tmp_path / "bin/tritonserver", tmp_path / "backends", {})
    common = {"host": "127.0.0.1", "ports": Ports(1, 2, 3), "region_prefix": "x", "gpu": False, "calls": 1}
    command = partial(triton_command, installation, [], start_timeout=1, exit_timeout=1, **common)
    assert "--cache-config=local,size=67108864" in command(cache_mib=64)
    assert f"--cache-directory={tmp_path / 'caches'}" in command(cache_mib=64)
    assert not any(flag.startswith("--cache") for flag in command(cache_mib=0))


def test_a_flag_or_a_variable_sets_each():
    settings = parse_settings(["--log-format=json"], {"OFA_REQUEST_LOG": "refused", "OFA_TRACE_EVERY": "7"})
    assert (settings.log_format, settings.request_log, settings.trace_every) == ("json", "refused", 7)


@pytest.mark.parametrize("flag", ["--log-format=xml", "--request-log=some", "--trace-every=0"])
def test_a_wrong_flag_ends_the_launcher(flag):
    with pytest.raises(SystemExit):
        parse_settings([flag], {})
