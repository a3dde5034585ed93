"""The metrics are pycocoevalcap's; an evaluation reports scores, speed and what was skipped, by torch or as served."""

import asyncio
import html
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from captioned import CAPTIONS, EXAMPLES, NAMES, both, write_coco, write_jsonl
from cases import CASES
from ofa_build.checkpoint import load_checkpoint
from ofa_build.cli import main
from ofa_build.data import open_data
from ofa_build.data.records import BadRecords, Record
from ofa_build.evaluation import metrics
from ofa_build.evaluation.captioners import ServedCaptioner, ServerError, TorchCaptioner
from ofa_build.evaluation.comparison import compare
from ofa_build.evaluation.evaluate import evaluate
from ofa_build.evaluation.search import normalise_pixels
from ofa_serving.images import load_pixels
from small_model import write_small

CHECKPOINT = EXAMPLES.parent / "checkpoints" / "emoji"
REFERENCES = {str(number): both(name) for number, name in enumerate(NAMES)}
PERFECT = {str(number): CAPTIONS[name] for number, name in enumerate(NAMES)}
JUDGED = {"0": PERFECT["1"], "1": "an owl", "2": PERFECT["2"], "3": ""}

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="COCO's tokenizer and METEOR run in Java")


@pytest.fixture(scope="module")
def cococap():
    return pytest.importorskip("pycocoevalcap", reason="the train extra is not installed")


@pytest.fixture(scope="module")
def scored(cococap):
    """Wrong captions, a perfect one and an empty one; METEOR takes long to start."""
    return metrics.score(REFERENCES, JUDGED)


@needs_java
def test_scores_are_pycocoevalcaps_own_on_a_coco_file(scored, tmp_path):
    from pycocoevalcap.eval import Bleu, Cider, Meteor, PTBTokenizer, Rouge
    from pycocotools.coco import COCO

    coco = COCO(str(write_coco(tmp_path)))
    tokenizer = PTBTokenizer()
    wanted = tokenizer.tokenize({image: coco.imgToAnns[image] for image in coco.getImgIds()})
    given = {image: [{"caption": JUDGED[str(number)]}] for number, image in enumerate(coco.getImgIds())}
    given = tokenizer.tokenize(given)
    bleu, bleus = Bleu(4).compute_score(wanted, given, verbose=0)
    assert [scored.overall[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == bleu
    assert scored.each["BLEU-4"] == bleus[3]
    for name, scorer in (("METEOR", Meteor()), ("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        total, each = scorer.compute_score(wanted, given)
        assert scored.overall[name] == total
        np.testing.assert_array_equal(scored.each[name], each)


@needs_java
def test_perfect_and_empty_captions_have_the_known_scores(scored):
    names = [name for name in metrics.METRICS if name not in ("METEOR", "SPICE")]
    alone = {key: references[:1] for key, references in REFERENCES.items()}
    perfect = metrics.score(alone, PERFECT, names).overall
    assert [perfect[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1, 1, 1, 1])
    assert perfect["ROUGE-L"] == pytest.approx(1)
    assert perfect["CIDEr"] == pytest.approx(10)
    empty = metrics.score(alone, dict.fromkeys(PERFECT, ""), names).overall
    assert {round(value, 9) for value in empty.values()} == {0}
    assert scored.each["METEOR"][2:] == pytest.approx([1, 0])


@needs_java
def test_spice_says_what_it_lacks_or_is_computed(cococap):
    scored = metrics.score(REFERENCES, PERFECT, ["SPICE"])
    assert scored.overall.get("SPICE") == pytest.approx(1) or "Stanford CoreNLP 3.6.0" in scored.absent["SPICE"]


def test_spice_belongs_to_its_image(monkeypatch, tmp_path):
    """pycocoevalcap answers in the order of the sorted keys, and "10" comes before "2"."""
    captions = {str(number): [str(number)] for number in range(12)}

    class Spice:
        def compute_score(self, references, given):
            return 0.5, [{"All": {"f": float(given[key][0])}} for key in sorted(references)]

    module = SimpleNamespace(Spice=Spice, __file__=str(tmp_path / "spice.py"))
    (tmp_path / "lib").mkdir()
    for name in metrics._SPICE_LIBRARIES:
        (tmp_path / "lib" / name).touch()
    monkeypatch.setattr(metrics, "_module", lambda _name: module)
    monkeypatch.setattr(metrics, "_need_java", lambda _what: None)
    assert metrics.score_tokenized(captions, captions, ["SPICE"]).each["SPICE"] == [float(n) for n in range(12)]


def test_the_tokenizer_without_java_agrees_on_plain_captions(cococap):
    assert metrics.tokenize_simply({"a": ["A dog's ball, (red) -- on one table."]}) == {
        "a": ["a dogs ball red on one table"]
    }
    if shutil.which("java"):
        assert metrics.tokenize_simply(REFERENCES) == metrics.tokenize(REFERENCES)


@pytest.mark.parametrize("split", ["tokenize", pytest.param("tokenize_simply", id="without Java")])
def test_every_chinese_character_is_a_word(cococap, split):
    if split == "tokenize" and shutil.which("java") is None:
        pytest.skip("COCO's tokenizer runs in Java")
    references = {"a": ["一条红色的长裙。"], "b": ["两只猫和一个球"], "c": ["iPhone 手机壳、蓝色"]}
    captions = {"a": ["一条红色的短裙"], "b": ["两只猫和一个球"], "c": ["iPhone手机壳蓝色"]}
    wanted, given = (getattr(metrics, split)(texts) for texts in (references, captions))
    assert given["c"] == wanted["c"] == ["iphone 手 机 壳 蓝 色"]
    assert given["a"] == ["一 条 红 色 的 短 裙"]
    scores = metrics.score_tokenized(wanted, given, ["BLEU-1", "CIDEr"])
    assert scores.each["BLEU-1"] == pytest.approx([6 / 7, 1, 1])
    assert 0 < scores.each["CIDEr"][0] < scores.each["CIDEr"][1]


def test_the_tokenizer_writes_nothing_beside_its_package(cococap, monkeypatch):
    """Where the package is installed for all, only its owner may."""
    if shutil.which("java") is None:
        pytest.skip("COCO's tokenizer runs in Java")

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert metrics.tokenize({"a": ["A boat.", "", "naïve -- 1 1/2 boats"]}) == {
        "a": ["a boat", "", "naïve 1\xa01/2 boats"]
    }


def test_a_run_goes_on_without_the_tokenizer_and_says_so_once(cococap, monkeypatch, caplog):
    def fail(_texts):
        raise metrics.MetricError("COCO's tokenizer ended early")

    monkeypatch.setattr(metrics, "tokenize", fail)
    monkeypatch.setattr(metrics.shutil, "which", lambda _name: "/usr/bin/java")
    metrics._usable_tokenizer.cache_clear()
    try:
        assert metrics.cider(REFERENCES, PERFECT) == metrics.cider(REFERENCES, PERFECT) > 0
    finally:
        metrics._usable_tokenizer.cache_clear()
    assert [record.getMessage()[:28] for record in caplog.records] == ["COCO's tokenizer ended early"]


def test_a_caption_is_exactly_a_reference_without_its_punctuation():
    records = [Record("boat", bytes, ("A Boat.", "one boat")), Record("owl", bytes, ("An owl, or two",))]
    answers = SimpleNamespace(answers=lambda _records: [(0, "A Boat", 0.1), (1, "an owl or two", 0.1)], description={})
    evaluation = evaluate(answers, records, BadRecords(), ["BLEU-1"])
    assert [one.is_exact for one in evaluation.judged] == [True, False]
    assert evaluation.exact == 0.5
    assert metrics.is_exact("iPhone手机壳", ["iPhone 手机壳。"])


def test_a_reader_that_fails_makes_one_bad_record(tmp_path):
    def fail():
        raise RuntimeError("the archive is closed")

    image = (EXAMPLES / "images" / NAMES[0]).read_bytes()
    records = [Record("good", lambda: image, ("a boat",)), Record("bad", fail, ("a boat",))]
    checkpoint = load_checkpoint(write_small(tmp_path))
    answers = {
        number: answer for number, answer, _ in TorchCaptioner.load(checkpoint, torch.device("cpu")).answers(records)
    }
    assert isinstance(answers[0], str)
    assert str(answers[1]) == "the archive is closed"
    served = ServedCaptioner("grpc://127.0.0.1:9", "none")
    answer, _ = asyncio.run(served._answer(None, fail))
    assert str(answer) == "the archive is closed"


def test_other_images_and_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match="of the same images"):
        metrics.score(REFERENCES, {"0": "a cat"})
    with pytest.raises(ValueError, match="WER is no metric"):
        metrics.score(REFERENCES, PERFECT, ["WER"])


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=lambda case: case.name)
def test_pixels_are_normalised_as_the_reference_does(case):
    settings = load_checkpoint(case.checkpoint).settings
    pixels = np.stack([load_pixels(image, settings.patch_image_size) for image in case.images])
    normalised = normalise_pixels(torch.from_numpy(pixels), settings)
    np.testing.assert_allclose(normalised.numpy(), case.tensors["pixels"], atol=1e-6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four images, of which the third has a wrong caption, and a record without an image."""
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        shutil.copy(EXAMPLES / "images" / name, folder)
    lines = write_jsonl(folder).read_text().splitlines()
    lines[2] = json.dumps({"image": NAMES[2], "captions": ["a <b>green</b> book"]})
    (folder / "captions.jsonl").write_text("\n".join([*lines, '{"image": "none.png", "caption": "nothing"}']))
    return folder


def check_report(out, title):
    report = json.loads((out / "scores.json").read_text())
    assert report["title"] == title
    assert report["images"] == 4
    assert report["exact"] == 0.75
    assert report["skipped"] == {"none.png": "the image file is missing"}
    assert report["captions_per_second"] > 0
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert [one["caption"] for one in report["captions"]] == [CAPTIONS[name] for name in NAMES]
    assert report["scores"]["CIDEr"] == pytest.approx(np.mean([one["scores"]["CIDEr"] for one in report["captions"]]))
    (row,) = [line for line in (out / "scores.md").read_text().splitlines() if line.startswith(f"| {title}")]
    assert f"| {100 * report['scores']['CIDEr']:.1f} |" in row
    assert "| 75.0 % |" in row
    page = (out / "report.html").read_text()
    shown = [html.unescape(text) for text in re.findall("<strong>(.*?)</strong>", page)]
    assert shown[0] == CAPTIONS[NAMES[2]]  # worst first
    assert set(shown) == {CAPTIONS[name] for name in NAMES}
    assert "a &lt;b&gt;green&lt;/b&gt; book" in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert page.count('class="exact"') == 3


@needs_java
def test_a_checkpoint_is_evaluated(cococap, data, tmp_path):
    assert main(["evaluate", str(CHECKPOINT), "--data", str(data), "--out", str(tmp_path), "--title", "small",
                 "--metrics", "BLEU-4", "ROUGE-L", "CIDEr"]) == 0  # fmt: skip
    check_report(tmp_path, "small")


REFUSED = {
    "no data": (["--data", "nowhere"], "there is no data at nowhere"),
    "too many bad": (["--data", "{data}", "--max-bad-records", "0"], "more than 0 records are bad: none.png"),
    "no records": (["--data", "{data}", "--limit", "-1"], "--limit, --concurrency and --batch-size are 1 or more"),
    "no server": (["--url", "grpc://127.0.0.1:9", "--data", "{data}"], "UNAVAILABLE: cannot get an answer"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals_are_one_line(data, caplog, flags, words):
    who = [] if "--url" in flags else [str(CHECKPOINT)]
    assert main(["evaluate", *who, *(flag.format(data=data) for flag in flags)]) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert words in line
    assert "\n" not in line


@needs_java
def test_a_metric_that_cannot_be_computed_is_refused_in_one_line_when_it_is_alone(cococap, data, tmp_path, caplog):
    if "SPICE" in metrics.score(REFERENCES, PERFECT, ["SPICE"]).overall:
        pytest.skip("SPICE can be computed here")
    command = ["evaluate", str(CHECKPOINT), "--data", str(data), "--limit", "1", "--out", str(tmp_path / "out")]
    assert main([*command, "--metrics", "SPICE"]) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "SPICE needs Stanford CoreNLP" in line


def test_a_server_is_evaluated_through_the_sdk(server, tmp_path):
    """The captions that ModelScope recorded are the references: as served, every caption is exactly one of them."""
    case = CASES[0]
    lines = []
    for name, image, captions in zip(case.record["images"], case.images, case.record["captions"], strict=True):
        (tmp_path / name).write_bytes(image)
        lines.append(json.dumps({"image": name, "captions": captions}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    data = open_data(tmp_path)
    captioner = ServedCaptioner(f"grpc://{server.grpc_url}", case.model_name, concurrency=4)
    answers = sorted(captioner.answers(data.records), key=lambda answer: answer[0])
    assert [caption for _, caption, _ in answers] == [captions[0] for captions in case.record["captions"]]
    assert all(seconds > 0 for *_, seconds in answers)
    with pytest.raises(ServerError, match="MODEL_NOT_FOUND"):
        list(ServedCaptioner(f"grpc://{server.grpc_url}", "no_such_model").answers(data.records))


def test_runs_are_set_side_by_side():
    one = {"images": 4, "exact": 0.5, "scores": {"CIDEr": 1.0, "BLEU-4": 0.3}}
    other = {"images": 4, "exact": 0.75, "scores": {"CIDEr": 1.5, "BLEU-4": 0.4}}
    table = compare({"direct": [one, other], "distilled": [other]}).splitlines()
    assert table[0] == "| | runs | images | CIDEr | BLEU-4 | exactly a reference |"
    assert table[2] == "| direct | 2 | 4 | 125.0 (100.0 to 150.0) | 35.0 (30.0 to 40.0) | 62.5 (50.0 to 75.0) |"
    assert table[3] == "| distilled | 1 | 4 | 150.0 | 40.0 | 75.0 |"
