"""Behind a running Triton, the ONNX Runtime backend gives what ONNX Runtime gives, whatever was batched with what."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import psutil
import pytest
from onnx import TensorProto, helper
from serving_process import ServerProcess, wait_until
from small_repository import CONFIGS, NAME, add_model, build_small_artifact, encoder_graph, graph_of, sign
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.server

TABLE = np.arange(10, dtype=np.float16) * 2

ROWS = [1, 3, 2, 1]
PATIENT = f"microseconds: 60000000 preferred_batch_size: {sum(ROWS)}"
"""It runs once all of those have come, however far apart."""

LOOKUP = """
    backend: "onnxruntime"
    max_batch_size: 8
    input { name: "index" data_type: TYPE_INT64 dims: [1] reshape { shape: [] } }
    output { name: "entry" data_type: TYPE_FP16 dims: [1] reshape { shape: [] } }
    dynamic_batching { max_queue_delay_microseconds: 100000 preferred_batch_size: 8 }
    instance_group { kind: KIND_CPU }
"""

ENDED = """
    backend: "onnxruntime"
    max_batch_size: 0
    input { name: "words" data_type: TYPE_STRING dims: [-1] }
    output { name: "ended" data_type: TYPE_STRING dims: [-1] }
    instance_group { kind: KIND_CPU }
"""


def lookup_graph():
    """``index`` INT64 [b] to ``entry`` FP16 [b]; an index past the table fails the run."""
    return graph_of(
        [helper.make_node("Gather", ["table", "index"], ["entry"])],
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["b"])],
        [helper.make_tensor_value_info("entry", TensorProto.FLOAT16, ["b"])],
        {"table": TABLE},
    )


def ended_graph():
    """``words``, strings of any number, to ``ended``: the same and a full stop."""
    return graph_of(
        [helper.make_node("Concat", ["words", "stop"], ["ended"], axis=0)],
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["n"])],
        [helper.make_tensor_value_info("ended", TensorProto.STRING, ["m"])],
        {"stop": np.array(["."], dtype=np.object_)},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    work = tmp_path_factory.mktemp("backend")
    folder = build_small_artifact(work / "artifacts")
    repository = folder / "model_repository"
    add_model(repository, "lookup", LOOKUP, "model.onnx", lookup_graph().SerializeToString())
    add_model(repository, "ended", ENDED, "model.onnx", ended_graph().SerializeToString())
    threads = CONFIGS["tiny_encoder"].replace('string_value: "1"', 'string_value: "4"')
    add_model(repository, "four_threads", threads, "model.onnx", encoder_graph().SerializeToString())
    patient = CONFIGS["tiny_encoder"].replace("microseconds: 100000 preferred_batch_size: 8", PATIENT)
    add_model(repository, "patient_encoder", patient, "model.onnx", encoder_graph().SerializeToString())
    sign(folder)
    with ServerProcess(work / "artifacts", [NAME], work) as running:
        yield running


@pytest.fixture(params=[grpc, http], ids=["grpc", "http"])
def protocol(request):
    return request.param


@pytest.fixture
def infer(server, protocol):
    """Send arrays to a model over either protocol; its outputs by name."""
    url = server.grpc_url if protocol is grpc else server.http_url.removeprefix("http://")

    def send(model, outputs=None, **arrays):
        inputs = []
        for name, array in arrays.items():
            data_type = {"object": "BYTES"}.get(str(array.dtype), str(array.dtype).upper().replace("FLOAT", "FP"))
            inputs.append(protocol.InferInput(name, list(array.shape), data_type))
            inputs[-1].set_data_from_numpy(array)
        wanted = [protocol.InferRequestedOutput(name) for name in outputs] if outputs else None
        with protocol.InferenceServerClient(url) as client:
            answer = client.infer(model, inputs, outputs=wanted)
            response = answer.get_response(as_json=True) if protocol is grpc else answer.get_response()
            return {output["name"]: answer.as_numpy(output["name"]) for output in response["outputs"]}

    return send


@pytest.fixture(scope="module")
def session():
    return ort.InferenceSession(encoder_graph().SerializeToString(), providers=["CPUExecutionProvider"])


def pixels(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_outputs_are_those_of_onnx_runtime(infer, session, rows):
    outputs = infer("tiny_encoder", pixels=pixels(rows))
    expected = session.run(None, {"pixels": pixels(rows)})
    assert set(outputs) == {"hidden", "batch"}
    np.testing.assert_array_equal(outputs["hidden"], expected[0])
    assert outputs["hidden"].dtype == np.float32
    np.testing.assert_array_equal(outputs["batch"], expected[1])


def test_concurrent_requests_run_as_one_batch_and_each_gets_its_own_rows(infer, session):
    with ThreadPoolExecutor(len(ROWS)) as pool:
        answers = list(pool.map(lambda i: infer("patient_encoder", pixels=pixels(ROWS[i], seed=i)), range(len(ROWS))))
    for seed, (count, answer) in enumerate(zip(ROWS, answers, strict=True)):
        alone = session.run(["hidden"], {"pixels": pixels(count, seed)})[0]
        np.testing.assert_allclose(answer["hidden"], alone, rtol=1e-6)
        assert answer["batch"].tolist() == [[sum(ROWS)]] * count


@pytest.mark.parametrize("outputs", [["hidden"], ["batch"], ["batch", "hidden"]])
def test_only_requested_outputs_are_answered(infer, outputs):
    assert set(infer("tiny_encoder", outputs, pixels=pixels(1))) == set(outputs)


def test_requests_of_one_batch_may_want_different_outputs(infer):
    wanted = [["hidden"], ["batch"], ["hidden", "batch"]]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda outputs: infer("tiny_encoder", outputs, pixels=pixels(1)), wanted))
    assert [set(answer) for answer in answers] == [set(outputs) for outputs in wanted]


@pytest.mark.parametrize(
    "array",
    [pixels(1)[..., :2], pixels(9), pixels(0), pixels(1)[0], pixels(1).astype(np.float32)],
    ids=["shape", "batch too large", "empty batch", "no batch", "type"],
)
def test_a_wrong_tensor_is_the_clients_error(infer, protocol, array):
    with pytest.raises(InferenceServerException) as caught:
        infer("tiny_encoder", pixels=array)
    assert caught.value.status() == ("StatusCode.INVALID_ARGUMENT" if protocol is grpc else "400")


def test_a_request_that_fails_the_graph_fails_alone(infer, server):
    def ask(index):
        try:
            return infer("lookup", index=np.array([[index]], dtype=np.int64))["entry"][0, 0]
        except InferenceServerException as error:
            return error.message()

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [3, 10, 7, -11]))
    assert [answers[0], answers[2]] == [TABLE[3], TABLE[7]]
    for message in (answers[1], answers[3]):
        error_id = re.fullmatch(r"INTERNAL: the model could not be run \(error ([0-9a-f]{12})\)", message)[1]
        told = re.compile(rf"lookup: error {error_id}.*indices element out of data bounds", re.DOTALL)
        wait_until(lambda told=told: told.search(server.log()))


def test_a_model_without_batching_runs_each_request(infer):
    def ask(words):
        return list(infer("ended", words=np.array(words, dtype=np.object_))["ended"])

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, [[b"one"], ["zwölf".encode(), b""], [b"a", b"b", b"c"]]))
    assert answers == [[b"one", b"."], ["zwölf".encode(), b"", b"."], [b"a", b"b", b"c", b"."]]


def test_the_thread_count_is_the_configurations(server):
    def threads(model):
        for process in psutil.Process(server.server_pid).children():
            if f"{model}_0_0" in process.cmdline():
                return process.num_threads()
        raise AssertionError(f"no process of {model}")

    assert threads("four_threads") == threads("tiny_encoder") + 3
