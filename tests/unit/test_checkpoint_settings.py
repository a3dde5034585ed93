"""``config.json`` and ``configuration.json``: every field that changes a caption is honoured or refused by name."""

import json
import shutil

import pytest
from ofa_build.checkpoint import CheckpointError, PipelineSettings, load_checkpoint
from ofa_serving.generation import GenerationConfig
from small_checkpoints import GOLDEN, copy_checkpoint, golden_checkpoint, replace_json

CASES = sorted(path.name for path in GOLDEN.iterdir() if (path / "checkpoint").exists())


def load(tmp_path, **changes):
    return load_checkpoint(copy_checkpoint(tmp_path / "checkpoint", **changes))


def refusal(tmp_path, **changes) -> str:
    with pytest.raises(CheckpointError) as error:
        load(tmp_path, **changes)
    assert str(tmp_path) not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_golden_checkpoints(case):
    checkpoint = load_checkpoint(golden_checkpoint(case))
    record = json.loads((GOLDEN / case / "record.json").read_text(encoding="utf-8"))
    settings = checkpoint.settings
    assert checkpoint.source_format == "modelscope"
    assert checkpoint.tokenizer.encode_prompt(settings.prompt, settings.max_src_length) == record["prompt_ids"]
    for name, value in json.loads((golden_checkpoint(case) / "config.json").read_text()).items():
        assert getattr(checkpoint.config, name, value) == value


def test_every_field_of_configuration_json_is_honoured(tmp_path):
    beam_search = {
        "beam_size": 7,
        "max_len_a": 0.5,
        "max_len_b": 20,
        "min_len": 3,
        "no_repeat_ngram_size": 2,
        "len_penalty": 0.9,
        "temperature": 1.2,
        "unk_penalty": 1.5,
    }
    model = {
        "prompt": " what does the image show?",
        "patch_image_size": 96,
        "imagenet_default_mean_and_std": True,
        "max_src_length": 3,
        "num_return_sequences": 4,
        "beam_search": beam_search,
    }
    settings = load(tmp_path, configuration={"model": model}).settings
    assert settings == PipelineSettings(
        language="en",
        prompt=" what does the image show?",
        patch_image_size=96,
        imagenet_default_mean_and_std=True,
        max_src_length=3,
        generation=GenerationConfig(
            beam_size=7,
            num_captions=4,
            max_length=22,  # half of a prompt of three tokens with start and end, rounded down, and 20
            min_length=3,
            no_repeat_ngram_size=2,
            length_penalty=0.9,
            temperature=1.2,
            unk_penalty=1.5,
        ),
    )
    assert settings.mean == (0.485, 0.456, 0.406)
    assert settings.std == (0.229, 0.224, 0.225)


def test_what_configuration_json_leaves_out_is_modelscopes_default(tmp_path):
    directory = copy_checkpoint(tmp_path / "checkpoint", config={"image_bucket_size": 42})
    replace_json(directory / "configuration.json", {})
    with pytest.raises(CheckpointError, match="embed_image_positions"):  # of 16 x 16 patches, where 480 pixels have 30
        load_checkpoint(directory)
    replace_json(directory / "configuration.json", {"model": {"patch_image_size": 128}})
    replace_json(directory / "config.json", json.loads((golden_checkpoint() / "config.json").read_text()))
    assert load_checkpoint(directory).settings == PipelineSettings(patch_image_size=128)


def test_fields_without_influence_pass(tmp_path):
    model = {"seed": 1, "max_image_size": 512, "batch_size": 4, "prompt_type": "none", "beam_search": {"max_len": 0}}
    load(tmp_path, configuration={"model": model, "train": {"max_epochs": 3}, "framework": "pytorch"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "mplug"),
        ("language", "fr"),
        ("multimodal_type", "mmspeech"),
        ("gen_type", "traverse"),
        ("answer2label", "answers.json"),
        ("prompt", 7),
        ("patch_image_size", "large"),
        ("patch_image_size", 0),
        ("patch_image_size", 128.5),
        ("max_src_length", 0),
        ("imagenet_default_mean_and_std", "yes"),
        ("num_return_sequences", 6),
        ("num_return_sequences", 0),
        ("beam_search.constraint_range", "4,8"),
        ("beam_search.normalize_scores", False),
        ("beam_search.match_source_len", True),
        ("beam_search.gen_code", True),
        ("beam_search.ignore_eos", True),
        ("beam_search.zero_shot", True),
        ("beam_search.sampling", True),
        ("beam_search.beam_size", 17),
        ("beam_search.beam_size", True),
        ("beam_search.beam_size", 2.5),
        ("beam_search.max_len_b", 200),
        ("beam_search.max_len_b", 0),
        ("beam_search.min_len", 17),
        ("beam_search.no_repeat_ngram_size", -1),
        ("beam_search.len_penalty", -0.5),
        ("beam_search.temperature", 0),
        ("beam_search.temperature", "hot"),
        ("beam_search.temperature", float("nan")),
        ("beam_search.unk_penalty", float("inf")),
    ],
)
def test_a_field_of_configuration_json_that_cannot_be_honoured_is_named(tmp_path, name, value):
    section, _, field = name.rpartition(".")
    model = {section: {field: value}} if section else {field: value}
    assert refusal(tmp_path, configuration={"model": model}).startswith(f"configuration.json: model.{name} is ")


def test_another_task_is_refused(tmp_path):
    assert refusal(tmp_path, configuration={"task": "visual-grounding"}).startswith("configuration.json: task is ")


def test_a_longest_caption_that_depends_on_the_prompt_must_be_in_range_too(tmp_path):
    message = refusal(tmp_path, configuration={"model": {"beam_search": {"max_len_a": 30}}})
    assert message == "configuration.json: model.beam_search.max_len_a * source + max_len_b is 256; supported: 1 to 128"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_ofasys", True),
        ("use_image_feature", False),
        ("resnet_type", "vit_huge"),
        ("activation_function", "quick_gelu"),
        ("resnet_model_path", "resnet.pth"),
        ("d_model", 65),
        ("d_model", "64"),
        ("encoder_layers", 0),
        ("normformer", "yes"),
        ("image_bucket_size", 7),
        ("bos_token_id", 5),
        ("max_position_embeddings", 7),
    ],
)
def test_a_field_of_config_json_that_cannot_be_honoured_is_named(tmp_path, name, value):
    assert name in refusal(tmp_path, config={name: value})


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    assert refusal(tmp_path, config={"vocab_size": 9758}) == (
        "vocab_size is 9758, but the vocabulary files with OFA's image codes and location bins make 9757"
    )


@pytest.mark.parametrize("name", ["clean_up_tokenization_spaces", "add_prefix_space"])
def test_a_tokenizer_config_that_changes_texts_is_refused(tmp_path, name):
    directory = copy_checkpoint(tmp_path / "checkpoint")
    replace_json(directory / "tokenizer_config.json", {name: True})
    with pytest.raises(CheckpointError, match=f"^tokenizer_config.json: {name} is True"):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "pytorch_model.bin"])
def test_a_missing_file_is_named(tmp_path, name):
    directory = copy_checkpoint(tmp_path / "checkpoint")
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["config.json", "configuration.json"])
@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_damaged_json_file_is_named(tmp_path, name, text):
    directory = copy_checkpoint(tmp_path / "checkpoint")
    (directory / name).unlink()
    (directory / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match=f"^{name} is not"):
        load_checkpoint(directory)


@pytest.mark.parametrize("name", ["config.json", "configuration.json"])
def test_a_json_files_byte_order_mark_is_no_fault(tmp_path, name):
    folder = shutil.copytree(golden_checkpoint(CASES[0]), tmp_path / "marked")
    (folder / name).write_text((folder / name).read_text("utf-8"), "utf-8-sig")
    assert load_checkpoint(folder).settings == load_checkpoint(golden_checkpoint(CASES[0])).settings


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(CheckpointError, match=r"^holiday/config\.json is missing$"):
        load_checkpoint(tmp_path / "holiday")
