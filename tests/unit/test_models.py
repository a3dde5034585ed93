"""The Python models without Triton, which a stand-in takes the place of; on a real one they are tested elsewhere."""

import gc
import importlib
import json
import sys
import threading
import time
import weakref
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from ofa_serving.admission import Admission
from ofa_serving.cancellation import CANCEL_VARIABLE, SLOT_PARAMETER, CancelFlags
from ofa_serving.contract import CaptionError, Code
from ofa_serving.generation import GenerationConfig
from ofa_serving.waiting import PriorityClass
from prometheus_client import CollectorRegistry, Counter
from serving_process import wait_until

PIXELS = np.zeros((4, 4, 3), np.uint8)


class Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values

    def shape(self):
        return self.values.shape

    def is_cpu(self):
        return True


class Metric:
    """One of Triton's, for which there may be no shared memory left."""

    broken = False

    def __init__(self, labels):
        self.shown = None

    def set(self, value):
        if Metric.broken:
            raise RuntimeError("no shared memory")
        self.shown = value

    increment = set


class MetricFamily:
    COUNTER = GAUGE = None

    def __init__(self, name, _description, _kind):
        self.Metric = Metric


class TritonError(Exception):
    UNAVAILABLE = INTERNAL = INVALID_ARG = 0

    def __init__(self, message, _status):
        super().__init__(message)


class Request:
    """One to a model; its only input are images, or what is made of them."""

    def __init__(self, images, timeout=0, **parameters):
        self._images, self._timeout, self._parameters = images, timeout, parameters
        self.cancelled, self.answers = False, []

    def parameters(self):
        return json.dumps(self._parameters)

    def timeout(self):
        return self._timeout

    def request_id(self):
        return ""

    def requested_output_names(self):
        return ["caption"]

    def is_cancelled(self):
        return self.cancelled

    def get_response_sender(self):
        return SimpleNamespace(send=lambda response, flags: self.answers.append(response))


@pytest.fixture
def models(monkeypatch):
    """A function that imports a module of ``ofa_serving.models``."""
    triton = SimpleNamespace(
        Tensor=Tensor,
        TritonError=TritonError,
        MetricFamily=MetricFamily,
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=tensors, error=error),
        get_input_tensor_by_name=lambda request, name: Tensor(name, np.array(request._images, dtype=np.object_)),
        Logger=SimpleNamespace(log_error=lambda _text: None),
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.setattr(Metric, "broken", False)
    yield lambda name: importlib.import_module(f"ofa_serving.models.{name}")
    for name in [name for name in sys.modules if name.startswith("ofa_serving.models")]:
        del sys.modules[name]


@pytest.fixture
def preprocess(models, monkeypatch, tmp_path):
    """A loaded model, and the images it decoded so far, of which each takes 20 ms by its own clock."""
    module, decoded, now = models("preprocess"), [], [0.0]

    def load_pixels(image, _size):
        now[0] += 0.02
        decoded.append(image)
        return PIXELS

    for clocked in (module, models("triton")):
        monkeypatch.setattr(clocked, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "load_pixels", load_pixels)
    monkeypatch.setattr(module, "configure_logs", lambda: None)
    monkeypatch.setenv(CANCEL_VARIABLE, str(tmp_path / "cancel"))
    model = module.PreprocessModel()
    config = json.dumps({"parameters": {"image_size": {"string_value": "4"}}})
    model.initialize(
        {"model_config": config, "model_name": "ofa_preprocess", "model_repository": "", "model_version": "1"}
    )
    yield SimpleNamespace(answer=lambda request: model.execute([request])[0], decoded=decoded)
    model.finalize()


def test_images_are_decoded_whatever_time_there_is(preprocess):
    response = preprocess.answer(Request([b"image"] * 3))
    assert response.tensors[0].values.shape == (3, *PIXELS.shape)


def test_a_request_whose_time_runs_out_is_not_decoded_to_its_end(preprocess):
    response = preprocess.answer(Request([b"image"] * 16, timeout=50_000))
    assert str(response.error).startswith("DEADLINE_EXCEEDED: ")
    assert len(preprocess.decoded) == 3


def test_nothing_is_decoded_of_a_request_that_was_given_up_while_it_waited(preprocess):
    CancelFlags.open("ofa_beam_search").set(7, True)
    response = preprocess.answer(Request([b"image"] * 16, **{SLOT_PARAMETER: 7}))
    assert str(response.error).startswith("DEADLINE_EXCEEDED: ")
    assert preprocess.decoded == []


def test_a_refused_search_lets_go_of_its_request_at_once(models):
    """Its hidden states lie in shared memory: garbage that is collected some time later would fill it."""
    module, sent = models("beam_search"), []
    request = Request([])
    sender = SimpleNamespace(send=lambda response=None, flags=0: sent.append(response))
    answer = module._Answer(request, sender, None, None, 2, lambda _answer: None)
    answer.receiver(0)(CaptionError(Code.DEADLINE_EXCEEDED, "too late"))
    answer.receiver(1)(CaptionError(Code.DEADLINE_EXCEEDED, "too late"))
    alive = weakref.ref(request)
    gc.disable()
    try:
        module.BeamSearchModel()._answer(answer)
        del answer, request
        assert alive() is None
    finally:
        gc.enable()
    assert [str(response.error) for response in sent if response] == ["DEADLINE_EXCEEDED: too late"]


@pytest.fixture
def gauge(models):
    return models("triton").Gauge("in_flight", "Requests in flight", "ofa_caption")


def test_a_gauge_that_cannot_be_shown_harms_nobody(gauge, monkeypatch, caplog):
    admission = Admission(1, changed=lambda requests, _images: gauge.set(requests))
    monkeypatch.setattr(Metric, "broken", True)
    admission.enter()
    admission.leave()
    assert "a metric could not be shown: no shared memory" in caplog.text
    monkeypatch.setattr(Metric, "broken", False)
    admission.enter()
    assert gauge._metric.shown == 1


def test_metrics_that_cannot_be_shown_are_later(models, monkeypatch, caplog):
    publishing, registry = models("publishing"), CollectorRegistry()
    counter = Counter("captions", "Captions", registry=registry)
    monkeypatch.setattr(publishing, "_SECONDS", 0.01)
    publisher = publishing.Publisher(registry)
    monkeypatch.setattr(Metric, "broken", True)
    counter.inc(3)
    wait_until(lambda: "metrics could not be shown: no shared memory" in caplog.text)
    monkeypatch.setattr(Metric, "broken", False)
    publisher.close()
    assert [series._metric.shown for series in publisher._series.values()] == [3]


@pytest.fixture
def responder(models):
    """One whose client of the flight in slot 0 fails whatever is done with it, and what became of the others.

    Of a stage it expects that it ends the work on a flight 0.2 seconds after its deadline.
    """
    module, told = models("responder"), SimpleNamespace(ended=[], answered=[], stuck=[], withdrawable=True)

    def ended(flight):
        if flight.slot == 0:
            raise RuntimeError("no shared memory")
        told.ended.append(flight.slot)

    def flight(slot, seconds=30.0, cancelled=lambda: False, send=told.answered.append):
        call = SimpleNamespace(until=time.monotonic() + seconds)
        sender = SimpleNamespace(send=lambda _response, flags: send(slot))
        return module.Flight(SimpleNamespace(is_cancelled=cancelled), sender, call, slot)

    told.flight = flight
    told.running = module.Responder(
        CancelFlags.open("search", {}),
        withdraw=lambda _flight: told.withdrawable,
        answered=lambda *_answer: told.count(),
        ended=ended,
        stuck=told.stuck.append,
        stuck_seconds=0.2,
    )
    told.count = lambda: None
    yield told
    told.running.close()


def test_a_request_whose_end_fails_does_not_end_the_answering_of_others(responder):
    for flight in (responder.flight(0), responder.flight(1)):
        responder.running.expect(flight)
        responder.running.answer(flight, "a caption")
    wait_until(lambda: responder.ended == [1])
    assert responder.answered == [0, 1]


def test_a_request_that_cannot_be_looked_at_does_not_keep_others_waiting(responder):
    def fail():
        raise RuntimeError("no shared memory")

    responder.running.expect(responder.flight(0, cancelled=fail))
    responder.running.expect(responder.flight(1, seconds=0.05))
    wait_until(lambda: responder.ended == [1])


def test_of_many_requests_few_are_asked_about_at_a_time_and_each_in_its_turn(responder):
    asked, flights = [], range(1, 41)
    for slot in flights:
        responder.running.expect(responder.flight(slot, seconds=600, cancelled=lambda slot=slot: asked.append(slot)))
    wait_until(lambda: set(asked) == set(flights))
    asked.clear()  # those that came first had more turns
    wait_until(lambda: len(asked) > 100)
    seen = list(asked)  # it goes on
    assert set(seen) == set(flights)
    counts = [seen.count(slot) for slot in flights]
    assert max(counts) - min(counts) <= 2


def test_a_stage_may_take_its_time_after_a_deadline_and_is_stuck_then(responder):
    responder.withdrawable = False
    began = time.monotonic()
    late = responder.flight(1, seconds=0.1)
    responder.running.expect(late)
    wait_until(lambda: responder.stuck)
    assert time.monotonic() - began >= 0.3
    responder.running.answer(late, "a caption")
    wait_until(lambda: responder.stuck == [1, 0])
    assert responder.answered == [1]


def test_a_stage_has_as_long_for_what_was_cancelled(responder):
    responder.withdrawable = False
    gone = responder.flight(1, seconds=600, cancelled=lambda: True)
    responder.running.expect(gone)
    wait_until(lambda: responder.answered == [1])
    time.sleep(0.4)
    assert responder.stuck == []
    responder.running.answer(gone, "a caption")


def test_an_answer_that_cannot_be_sent_is_told_for_good(responder):
    def fail(_slot):
        raise RuntimeError("no shared memory")

    for flight in (responder.flight(1, send=fail), responder.flight(2)):
        responder.running.expect(flight)
        responder.running.answer(flight, "a caption")
    wait_until(lambda: responder.ended == [1, 2])
    assert responder.answered == [2]
    assert responder.stuck == [1]


def test_an_answer_that_cannot_be_counted_is_an_answer(responder):
    def fail():
        raise RuntimeError("no shared memory")

    responder.count, flight = fail, responder.flight(1)
    responder.running.expect(flight)
    responder.running.answer(flight, "a caption")
    wait_until(lambda: responder.ended == [1])
    assert (responder.answered, responder.stuck) == ([1], [])


def test_the_search_is_told_who_waits(models):
    module, submitted = models("beam_search"), []
    model = module.BeamSearchModel()
    model._key = SimpleNamespace(demand=lambda _parameters: None)
    model._flags = CancelFlags.open("search", {})
    model._scheduler = SimpleNamespace(submit=submitted.extend)
    model._max_seconds, model._complete = 30, SimpleNamespace(put=None)
    for parameters in ({"priority_class": "batch"}, {}):
        model._submit(Request([PIXELS], **parameters), None)
    assert [job.priority for job in submitted] == [PriorityClass.BATCH, PriorityClass.INTERACTIVE]
    with pytest.raises(CaptionError, match="INVALID_PARAMETER: priority_class must be interactive or batch"):
        model._submit(Request([PIXELS], priority_class="urgent"), None)


@pytest.fixture
def entry(models, monkeypatch):
    """The public model over stages of which the encoder takes an image at a time, and only while ``encoder`` is set.

    ``calls`` are those it made, as (stage, parameters).
    """
    module, told = models("entry"), SimpleNamespace(calls=[], encoder=threading.Event(), left=[])

    def exec_call(model_name, inputs, parameters):
        told.calls.append((model_name, parameters))
        if model_name == "ofa_encoder":
            assert told.encoder.wait(60)
        return SimpleNamespace(has_error=lambda: False, images=len(inputs[0].values))

    triton = module.pb_utils
    triton.InferenceRequest = lambda model_name, inputs, parameters, **_others: SimpleNamespace(
        exec=lambda: exec_call(model_name, inputs, parameters)
    )
    of_input = triton.get_input_tensor_by_name
    triton.get_input_tensor_by_name = lambda request, name: Tensor(name, of_input(request, name).values.reshape(-1, 1))
    triton.get_output_tensor_by_name = lambda response, name: Tensor(
        name, np.zeros((response.images, {"search_ms": 2}.get(name, 1)), np.float32)
    )
    monkeypatch.setattr(module, "configure_logs", lambda: None)
    limits = {"encoder_batch": 1, "max_running": 8, "max_in_flight": 16, "max_in_flight_bytes": 1000, "max_seconds": 30}
    values = {name: {"string_value": str(value)} for name, value in (asdict(GenerationConfig()) | limits).items()}
    told.model = module.EntryModel()
    told.model.initialize(
        {
            "model_config": json.dumps({"parameters": values}),
            "model_name": "ofa_caption",
            "model_repository": "",
            "model_version": "1",
        }
    )
    leave = told.model._admission.leave
    monkeypatch.setattr(
        told.model._admission,
        "leave",
        lambda load, took, captioned: (told.left.append(captioned), leave(load, took, captioned)),
    )
    told.called = lambda stage: [parameters for name, parameters in told.calls if name == f"ofa_{stage}"]
    yield told
    told.encoder.set()
    told.model.finalize()


def ask(entry, priority, images=1):
    request = Request([b"image"] * images, priority_class=priority)
    entry.model.execute([request])
    return request


def test_a_batch_of_requests_leaves_threads_to_an_interactive_one(entry):
    batch = [ask(entry, "batch") for _ in range(8)]
    wait_until(lambda: len(entry.called("preprocess")) == 4)
    interactive = ask(entry, "interactive")
    wait_until(lambda: len(entry.called("preprocess")) == 5)
    entry.encoder.set()
    wait_until(lambda: all(request.answers for request in (*batch, interactive)))
    classes = [parameters["priority_class"] for parameters in entry.called("beam_search")]
    assert sorted(classes) == ["batch"] * 8 + ["interactive"]


def test_an_interactive_request_is_encoded_before_batch_ones_that_wait(entry):
    for _ in range(4):
        ask(entry, "batch")
    wait_until(lambda: len(entry.called("preprocess")) == 4 and len(entry.called("encoder")) == 2)
    ask(entry, "interactive")
    wait_until(lambda: len(entry.called("preprocess")) == 5)
    time.sleep(0.1)
    assert len(entry.called("encoder")) == 2  # one run, and the next
    entry.encoder.set()
    wait_until(lambda: len(entry.left) == 5)


def test_what_was_given_up_is_not_encoded_and_does_not_count_as_captioned(entry):
    encoded = [ask(entry, "interactive") for _ in range(2)]
    wait_until(lambda: len(entry.called("encoder")) == 2)
    waiting = ask(entry, "interactive")
    wait_until(lambda: len(entry.called("preprocess")) == 3)
    waiting.cancelled = True
    wait_until(lambda: entry.left == [False])
    entry.encoder.set()
    wait_until(lambda: len(entry.left) == 3)
    assert entry.left[1:] == [True, True]
    assert len(entry.called("encoder")) == 2
    assert [request.answers[0].error for request in encoded] == [None, None]
    assert str(waiting.answers[0].error).startswith("DEADLINE_EXCEEDED: ")


def test_many_images_of_one_request_are_encoded_a_run_at_a_time(entry):
    entry.encoder.set()
    request = ask(entry, "batch", images=5)
    wait_until(lambda: request.answers)
    assert request.answers[0].error is None
    assert len(entry.called("encoder")) == 5
