"""Weights: every file format gives the same tensors, they must fit the model, and no file can run code."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from ofa_build.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ofa_build.checkpoint.files import sha256
from ofa_build.model import OFA
from safetensors.torch import save_file, save_model
from small_checkpoints import copy_checkpoint, golden_checkpoint

GOLDEN_WEIGHTS = golden_checkpoint() / "pytorch_model.bin"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN_WEIGHTS, weights_only=True)


@pytest.fixture(scope="module")
def golden():
    return load_checkpoint(golden_checkpoint())


@pytest.fixture
def directory(tmp_path):
    """A checkpoint directory without weights."""
    directory = copy_checkpoint(tmp_path / "checkpoint")
    (directory / "pytorch_model.bin").unlink()
    return directory


def put(directory, state) -> None:
    torch.save(state, directory / "pytorch_model.bin")


def refusal(directory) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(directory)
    assert str(directory) not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same_weights(checkpoint, other):
    assert checkpoint.state_dict.keys() == other.state_dict.keys()
    for name, tensor in checkpoint.state_dict.items():
        assert torch.equal(tensor, other.state_dict[name]), name


# --- Formats ----------------------------------------------------------------------------------------------------------


def test_the_weights_are_the_models_in_float32(golden):
    model = OFA(golden.config)
    model.load_state_dict(golden.state_dict, strict=True)
    kinds = {tensor.dtype for tensor in golden.state_dict.values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}


def test_the_hash_is_of_the_weights_file(golden):
    assert golden.sha256 == hashlib.sha256(GOLDEN_WEIGHTS.read_bytes()).hexdigest()


def test_a_directory_without_configuration_json_is_hugging_faces(directory, state, golden):
    put(directory, state)
    config = directory / "config.json"
    values = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps({**values, "image_bucket_size": 16}))
    (directory / "configuration.json").unlink()
    message = refusal(directory)  # 480 pixels are more patches than this small model has positions for
    assert message == "image_bucket_size is 16: a 480-pixel image has 30 patches a side"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hugging_face_settings_follow_from_the_vocabulary(large_grid, language):
    checkpoint = load_checkpoint(large_grid[language])
    assert checkpoint.source_format == "huggingface"
    assert checkpoint.settings.language == language
    assert checkpoint.settings.patch_image_size == 480
    assert checkpoint.settings.prompt == {"en": " what does the image describe?", "zh": "图片描述了什么内容?"}[language]


@pytest.fixture(scope="module")
def large_grid(tmp_path_factory):
    """Directories in Hugging Face's format whose position tables hold a 480-pixel image."""
    found = {}
    for language, case in (("en", "en-default"), ("zh", "zh-default")):
        golden = load_checkpoint(golden_checkpoint(case))
        config = type(golden.config)(**{**vars(golden.config), "image_bucket_size": 30})
        directory = tmp_path_factory.mktemp(language)
        save_checkpoint(directory, config, OFA(config).state_dict(), golden.settings, golden.tokenizer_files)
        (directory / "configuration.json").unlink()
        found[language] = directory
    return found


def test_safetensors(directory, state, golden):
    save_file({name: tensor.clone() for name, tensor in state.items()}, directory / "model.safetensors")
    assert_same_weights(load_checkpoint(directory), golden)


def test_safetensors_go_before_a_pickle(directory, state, golden):
    (directory / "pytorch_model.bin").write_bytes(b"no weights")
    save_file({name: tensor.clone() for name, tensor in state.items()}, directory / "model.safetensors")
    assert_same_weights(load_checkpoint(directory), golden)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_shards(directory, state, golden, suffix):
    names = list(state)
    stem = "pytorch_model" if suffix == "bin" else "model"
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"{stem}-{number}.{suffix}"
        shard = {name: state[name].clone() for name in part}
        torch.save(shard, directory / file) if suffix == "bin" else save_file(shard, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_weights(load_checkpoint(directory), golden)

    (directory / f"{stem}-1.{suffix}").unlink()
    assert refusal(directory) == f"the weight file {stem}-1.{suffix} is missing"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../other.bin"}}, "pytorch_model.bin.index.json names a file outside the checkpoint"),
        ({"weight_map": 3}, "pytorch_model.bin.index.json is not an index of weight files"),
        ([], "pytorch_model.bin.index.json is not an index of weight files"),
    ],
)
def test_a_damaged_index_is_refused(directory, index, message):
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert refusal(directory) == message


def test_weights_in_the_old_file_format(directory, state, golden):
    torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same_weights(load_checkpoint(directory), golden)


# --- Fit --------------------------------------------------------------------------------------------------------------


def test_derived_buffers_are_dropped(directory, state, golden):
    derived = {
        "encoder.token_rp_bucket": torch.zeros(3, 3, dtype=torch.long),
        "decoder.image_rp_bucket": torch.zeros(3, 3, dtype=torch.long),
        "decoder.image_position_idx": torch.zeros(3, dtype=torch.long),
        "encoder.version": torch.tensor([3.0]),
        "encoder.embed_positions._float_tensor": torch.zeros(1),
    }
    put(directory, state | derived)
    assert_same_weights(load_checkpoint(directory), golden)


def test_tied_weights_that_a_file_stores_once_are_filled_in(directory, state, golden):
    tied = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    put(directory, {name: tensor for name, tensor in state.items() if name not in tied})
    checkpoint = load_checkpoint(directory)
    assert_same_weights(checkpoint, golden)
    pointers = {checkpoint.state_dict[name].data_ptr() for name in (*tied, "encoder.embed_tokens.weight")}
    assert len(pointers) == 1


def test_tied_weights_that_safetensors_stores_under_another_name(directory, golden):
    model = OFA(golden.config)
    model.load_state_dict(golden.state_dict)
    save_model(model, str(directory / "model.safetensors"))  # keeps the first name in the alphabet
    assert_same_weights(load_checkpoint(directory), golden)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_named(directory, state, number):
    bias = state["encoder.image_proj.bias"].clone()
    bias[3] = number
    put(directory, state | {"encoder.image_proj.bias": bias})
    assert refusal(directory) == "the checkpoint has weights that are no finite numbers: encoder.image_proj.bias"


def test_tied_weights_that_differ_are_refused(directory, state):
    name = "decoder.output_projection.weight"
    put(directory, state | {name: state[name] + 1})
    assert refusal(directory) == f"the weights {name} and encoder.embed_tokens.weight are tied, but they differ"


def test_missing_batch_counts_do_not_matter(directory, state, golden):
    put(directory, {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")})
    checkpoint = load_checkpoint(directory)
    assert checkpoint.state_dict.keys() == golden.state_dict.keys()


def test_missing_weights_are_named(directory, state):
    put(directory, {name: tensor for name, tensor in state.items() if not name.startswith("decoder.layers.1.")})
    assert refusal(directory).startswith("the checkpoint lacks weights of the configured model: decoder.layers.1.")
    put(directory, {name: tensor for name, tensor in state.items() if name != "encoder.image_proj.bias"})
    assert refusal(directory) == "the checkpoint lacks weights of the configured model: encoder.image_proj.bias"


def test_unexpected_weights_are_named(directory, state):
    put(directory, state | {"encoder.adapter.weight": torch.zeros(3)})
    assert refusal(directory) == "the checkpoint has weights that the configured model has not: encoder.adapter.weight"


def test_mis_shaped_weights_are_named(directory, state):
    put(directory, state | {"encoder.image_proj.bias": torch.zeros(63)})
    assert refusal(directory).endswith("than the configured model: encoder.image_proj.bias [63] instead of [64]")


# --- Safety -----------------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_file_that_would_run_code_is_refused_unrun(directory, tmp_path, name, zipped):
    trace = tmp_path / "trace"
    content = {"model": {"weight": Malicious(trace)}}
    torch.save(content, directory / name, _use_new_zipfile_serialization=zipped)
    message = refusal(directory if name == "pytorch_model.bin" else directory / name)
    assert message.startswith(f"{name} is refused: ")
    assert not zipped or "posix.mkdir" in message
    assert not trace.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_weights_that_hash_to_something_else_are_not_even_looked_into(directory, tmp_path, name):
    path = directory / name
    torch.save({"weight": Malicious(tmp_path / "trace")}, path)
    with pytest.raises(CheckpointError, match=r"^the weights hash to [0-9a-f]{64}, not to what was asked for$"):
        load_checkpoint(path if name == "model.pt" else directory, sha256="0" * 64)


def test_a_hash_may_be_written_in_capitals(golden):
    assert load_checkpoint(golden_checkpoint(), sha256=golden.sha256.upper()).sha256 == golden.sha256


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LFS_POINTER, "is Git LFS's pointer to the weights: fetch them with git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not weights: download the file itself"),
    ],
)
def test_what_stands_in_for_weights_is_called_by_its_name(directory, name, content, reason):
    (directory / name).write_bytes(content)
    assert refusal(directory / name if name == "model.pt" else directory) == f"{name} {reason}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory"), "is missing"),
        (PermissionError(13, "Permission denied"), "cannot be read: Permission denied"),
    ],
)
def test_a_file_that_cannot_be_opened_is_not_called_damaged(monkeypatch, error, reason):
    monkeypatch.setattr(Path, "open", lambda *_: raise_(error))
    with pytest.raises(CheckpointError, match=f"^pytorch_model.bin {reason}$"):
        sha256([GOLDEN_WEIGHTS])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_file_that_is_too_large_is_not_called_damaged(directory, state, monkeypatch, error):
    put(directory, state)
    monkeypatch.setattr(torch, "load", lambda *_, **__: raise_(error))
    assert refusal(directory) == "pytorch_model.bin does not fit into this machine's memory"


def raise_(error):
    raise error


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\3\4" + bytes(100), pickle.dumps({"a": 1}, protocol=2)])
def test_a_damaged_file_is_named(directory, content):
    (directory / "pytorch_model.bin").write_bytes(content)
    assert refusal(directory).startswith("pytorch_model.bin ")


def test_half_a_file_is_named(directory):
    content = GOLDEN_WEIGHTS.read_bytes()
    (directory / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    assert refusal(directory) == "pytorch_model.bin is damaged or not a file of weights"


def test_a_damaged_safetensors_file_is_named(directory):
    (directory / "model.safetensors").write_bytes(b"\xff" * 100)
    assert refusal(directory) == "model.safetensors is damaged or not a file of weights"


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"weight": torch.zeros(1)}}])
def test_a_file_without_named_tensors_is_refused(directory, content):
    put(directory, content)
    assert refusal(directory) == "pytorch_model.bin holds something else than named tensors"
