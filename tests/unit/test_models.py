"""The Python models without Triton, which a stand-in takes the place of; on a real one they are tested elsewhere."""

import gc
import importlib
import json
import sys
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from ofa_serving.admission import Admission
from ofa_serving.cancellation import CANCEL_VARIABLE, SLOT_PARAMETER, CancelFlags
from ofa_serving.contract import CaptionError, Code
from prometheus_client import CollectorRegistry, Counter
from serving_process import wait_until

PIXELS = np.zeros((4, 4, 3), np.uint8)


class Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


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
    """Images to preprocess."""

    def __init__(self, images, timeout=0, **parameters):
        self._images, self._timeout, self._parameters = images, timeout, parameters

    def parameters(self):
        return json.dumps(self._parameters)

    def timeout(self):
        return self._timeout

    def request_id(self):
        return ""


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
    """A loaded model, and the images it decoded so far, of which each takes 20 ms."""
    module, decoded = models("preprocess"), []

    def load_pixels(image, _size):
        time.sleep(0.02)
        decoded.append(image)
        return PIXELS

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
    assert 1 <= len(preprocess.decoded) < 16


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


def test_metrics_that_cannot_be_shown_are_later(models, monkeypatch):
    publishing, registry = models("publishing"), CollectorRegistry()
    counter = Counter("captions", "Captions", registry=registry)
    monkeypatch.setattr(publishing, "_SECONDS", 0.01)
    publisher = publishing.Publisher(registry)
    monkeypatch.setattr(Metric, "broken", True)
    counter.inc(3)
    time.sleep(0.1)
    monkeypatch.setattr(Metric, "broken", False)
    publisher.close()
    assert [series._metric.shown for series in publisher._series.values()] == [3]


@pytest.fixture
def responder(models):
    """One whose client of the flight in slot 0 fails whatever is done with it, and what became of the others."""
    module, told = models("responder"), SimpleNamespace(ended=[], answered=[])

    def ended(flight):
        if flight.slot == 0:
            raise RuntimeError("no shared memory")
        told.ended.append(flight.slot)

    def flight(slot, seconds=30.0, cancelled=lambda: False):
        call = SimpleNamespace(until=time.monotonic() + seconds)
        sender = SimpleNamespace(send=lambda _response, flags: told.answered.append(slot))
        return module.Flight(SimpleNamespace(is_cancelled=cancelled), sender, call, slot)

    told.flight = flight
    told.running = module.Responder(
        CancelFlags.open("search", {}),
        withdraw=lambda _flight: True,
        answered=lambda *_answer: None,
        ended=ended,
        stuck=lambda _count: None,
    )
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
