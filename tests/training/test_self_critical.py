"""The stage that learns from its own captions by their reward."""

import csv
from dataclasses import replace

import pytest
from captioned import NAMES, both
from ofa_build.checkpoint import load_checkpoint
from ofa_build.data.batches import Encoding
from ofa_build.data.records import BadRecords, Record
from ofa_build.data.sources import CaptionData
from ofa_build.model import OFA
from ofa_build.training.cider_d import CiderD
from ofa_build.training.finetuning import finetune
from ofa_build.training.self_critical import SelfCritical
from small_model import write_small
from small_run import IMAGES, STEADY

CORPUS = [both(name) for name in NAMES]


def test_the_reward_is_cider_d():
    pytest.importorskip("pycocoevalcap", reason="the train extra is not installed")
    from ofa_build.evaluation.metrics import tokenize_simply
    from pycocoevalcap.cider.cider import Cider

    captions = [CORPUS[1][0], "an owl", CORPUS[2][0], ""]
    reward = CiderD(CORPUS)
    ours = [reward.score(caption, references) for caption, references in zip(captions, CORPUS, strict=True)]
    ended = {n: [f"{text} <eos>" for text in tokenize_simply({"": texts})[""]] for n, texts in enumerate(CORPUS)}
    given = {n: [f"{text} <eos>".strip()] for n, text in enumerate(captions)}
    _, theirs = Cider().compute_score(ended, given)
    assert ours == pytest.approx(theirs.tolist())


def test_the_reward_counts_chinese_characters():
    corpus = [["一条红色的长裙。"], ["两只猫和一个球"], ["蓝色手机壳"]]
    reward = CiderD(corpus)
    assert 0 < reward.score("一条红色的短裙", corpus[0]) < reward.score("一条红色的长裙", corpus[0])


def test_the_self_critical_stage_warns_of_single_references(checkpoint, caplog):
    loaded = load_checkpoint(checkpoint)
    for captions in (("a cat", "the cat"), ("a cat",)):
        assert "a single reference" not in caplog.text
        SelfCritical(OFA(loaded.config), loaded, CaptionData([Record("one", bytes, captions)], BadRecords()), STEADY)
    assert "every image has a single reference" in caplog.text


def test_a_batch_of_nothing_takes_its_part_in_the_self_critical_stage(tmp_path):
    """Batch norms that are shared between processes wait for the training forward of every one of them."""
    checkpoint = load_checkpoint(write_small(tmp_path, beam_size=2))
    model = OFA(checkpoint.config)
    model.load_state_dict(dict(checkpoint.state_dict))
    data = CaptionData([Record("one", bytes, ("a cat",))], BadRecords())
    objective = SelfCritical(model, checkpoint, data, STEADY).train()
    modes = []
    model.encoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    empty = Encoding(checkpoint.tokenizer, checkpoint.settings.patch_image_size, 20, 64).collate([])
    loss = objective(empty, 0)["loss"].value
    loss.backward()
    assert modes == [False, True]
    assert loss.item() == 0
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_the_self_critical_stage_raises_the_reward(tmp_path, data):
    start = write_small(tmp_path / "start", beam_size=4)
    taught = finetune(start, str(data), work_dir=tmp_path / "taught", data=IMAGES,
                      recipe=replace(STEADY, max_updates=25, learning_rate=4e-3))  # fmt: skip
    recipe = replace(STEADY, max_updates=12, learning_rate=5e-4, label_smoothing=0.0)
    work = tmp_path / "rewarded"
    finetune(taught.checkpoint, str(data), work_dir=work, stage="self-critical", recipe=recipe, data=IMAGES)
    rewards = [float(row["reward"]) for row in csv.DictReader((work / "log.csv").open())]
    assert sum(rewards[-4:]) > sum(rewards[:4]) > 0
