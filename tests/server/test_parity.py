"""The running server gives ModelScope's hypotheses and captions, whatever the protocol and whatever the batch."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
from cases import CASES, DATA
from wire import OUTPUTS, over_curl, over_grpc, over_http

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_protocol = pytest.mark.parametrize("ask", [over_grpc, over_http], ids=["grpc", "http"])


@each_protocol
@each_case
def test_every_hypothesis_is_the_reference_s(server, case, ask):
    tasks = [
        (settings, image, wanted)
        for settings, hypotheses in case.searches
        for image, wanted in zip(case.images, hypotheses, strict=True)
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda task: ask(server, case.model_name, [task[1]], **asdict(task[0])), tasks)
        for answer, (_, _, wanted) in zip(answers, tasks, strict=True):
            assert_answer(answer, wanted)


@each_protocol
@each_case
def test_captions_by_default_are_the_pipeline_s(server, case, ask):
    answer = ask(server, case.model_name, case.images, outputs=["caption"])
    wanted = [[captions[0].encode()] for captions in case.record["captions"]]
    assert answer["caption"].tolist() == wanted


@each_case
def test_curl_gets_the_caption(server, case):
    for name, captions in zip(case.record["images"], case.record["captions"], strict=True):
        status, header, data = over_curl(server, case.model_name, DATA / "images" / name)
        assert status == 200
        assert outputs_of(header, data)["caption"] == captions[0]


@pytest.mark.parametrize("concurrency", [1, 2, 7, 32])
def test_a_caption_does_not_depend_on_what_else_is_in_flight(server, concurrency):
    tasks = mixed_requests(32)
    alone = [over_grpc(server, *task[:2], **task[2]) for task in tasks]
    with ThreadPoolExecutor(concurrency) as pool:
        together = list(pool.map(lambda task: over_grpc(server, *task[:2], **task[2]), tasks))
    for one, other in zip(alone, together, strict=True):
        assert one["tokens"].tolist() == other["tokens"].tolist()
        assert one["caption"].tolist() == other["caption"].tolist()
        np.testing.assert_allclose(one["score"], other["score"], rtol=0, atol=1e-4)


def test_a_batch_on_the_wire_gives_each_image_its_own_result(server):
    case = CASES[0]
    batch = over_grpc(server, case.model_name, case.images, num_captions=3)
    for index, image in enumerate(case.images):
        single = over_grpc(server, case.model_name, [image], num_captions=3)
        assert batch["caption"][index].tolist() == single["caption"][0].tolist()
        np.testing.assert_allclose(batch["score"][index], single["score"][0], rtol=0, atol=1e-4)


def mixed_requests(count):
    """Model, images and parameters that share nothing: lengths, beams and penalties all differ."""
    case, random = CASES[0], np.random.default_rng(5)
    return [
        (
            case.model_name,
            [case.images[random.integers(len(case.images))]],
            {
                "beam_size": int(random.integers(1, 9)),
                "max_length": int(random.integers(3, 25)),
                "no_repeat_ngram_size": int(random.integers(0, 4)),
                "length_penalty": round(float(random.uniform(0, 2)), 3),
                "temperature": round(float(random.uniform(0.5, 2)), 3),
            },
        )
        for _ in range(count)
    ]


def assert_answer(answer, wanted):
    assert len(answer["caption"][0]) == len(wanted)
    for rank, hypothesis in enumerate(wanted):
        length = len(hypothesis["tokens"])
        assert answer["tokens"][0, rank, :length].tolist() == hypothesis["tokens"]
        assert (answer["tokens"][0, rank, length:] == 1).all()
        logprobs = answer["token_logprobs"][0, rank]
        np.testing.assert_allclose(logprobs[:length], hypothesis["positional_scores"], rtol=0, atol=1e-3)
        assert not logprobs[length:].any()
        assert abs(answer["score"][0, rank] - hypothesis["score"]) < 1e-3


def outputs_of(header, data):
    """The caption of a raw answer; its tensors follow each other in the header's order."""
    assert [output["name"] for output in header["outputs"]] == [*OUTPUTS, "timing_ms"]
    for output in header["outputs"]:
        size = output["parameters"]["binary_data_size"]
        if output["name"] == "caption":
            return {"caption": data[4:size].decode()}  # four bytes of length come first
        data = data[size:]
    raise AssertionError("no caption")
