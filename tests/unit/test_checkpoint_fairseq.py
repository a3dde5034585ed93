"""fairseq checkpoints: renamed weights, a structure told by shapes and arguments, dictionaries rewritten."""

import json
import random
import zipfile
from argparse import Namespace
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from ofa_build.checkpoint import CheckpointError, load_checkpoint
from ofa_build.checkpoint.files import read_pickle
from small_checkpoints import golden_checkpoint

ARGUMENTS = {
    "arch": "ofa_tiny",
    "activation_fn": "gelu",
    "attn_scale_factor": 2,
    "no_scale_embedding": True,
    "orig_patch_image_size": 224,
    "share_all_embeddings": True,
    "scale_heads": True,
    "encoder_drop_path_rate": 0.1,
    "adapter": False,
    "resnet_model_path": None,
}
TASK = {
    "_name": "caption",
    "bpe": "gpt2",
    "bpe_dir": "../../utils/BPE",
    "patch_image_size": 128,
    "max_src_length": 80,
    "imagenet_default_mean_and_std": False,
    "eval_args": '{"beam":4,"max_len_b":18,"no_repeat_ngram_size":2,"lenpen":0.9,"unkpen":0.5}',
}


def fairseq_name(name: str) -> str:
    if name.startswith("encoder.layers."):
        name = name.replace("self_attn_mid_layer_norm", "attn_ln")
    for ours, theirs in (
        ("self_attn_mid_layer_norm", "self_attn_ln"),
        ("cross_attn_mid_layer_norm", "cross_attn_ln"),
        ("cross_attn_layer_norm", "encoder_attn_layer_norm"),
        ("cross_attn.", "encoder_attn."),
        ("ffn_layer_norm", "ffn_layernorm"),
    ):
        name = name.replace(ours, theirs)
    return name


def fairseq_weights(case: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for path in golden_checkpoint(case).glob("*.bin"):
        state |= torch.load(path, weights_only=True)
    renamed = {fairseq_name(name): tensor for name, tensor in state.items()}
    return renamed | {"encoder.version": torch.tensor([3.0]), "decoder.version": torch.tensor([3.0])}


def write_english_dictionaries(folder, case: str = "en-default") -> None:
    """The golden vocabulary as fairseq has it: GPT-2's ids in an order of their own."""
    folder.mkdir(parents=True)
    vocabulary = json.loads((golden_checkpoint(case) / "vocab.json").read_text(encoding="utf-8"))
    entries = sorted(vocabulary, key=vocabulary.get)[4:-1]
    ids = list(range(len(entries)))
    random.Random(0).shuffle(ids)
    encoder = dict(zip(entries, ids, strict=True))
    (folder / "encoder.json").write_text(json.dumps(encoder))
    (folder / "dict.txt").write_text("".join(f"{encoder[entry]} {900 - n}\n" for n, entry in enumerate(entries)))
    (folder / "vocab.bpe").write_bytes((golden_checkpoint(case) / "merges.txt").read_bytes())


def write_chinese_dictionaries(folder) -> None:
    folder.mkdir(parents=True)
    entries = (golden_checkpoint("zh-default") / "vocab.txt").read_text(encoding="utf-8").splitlines()[4:-1]
    (folder / "dict.txt").write_text("".join(f"{entry} 1\n" for entry in entries), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """OFA's repository: checkpoints in one folder, dictionaries in another."""
    write_english_dictionaries(tmp_path / "utils" / "BPE")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def write(folder, case="en-default", weights=None, arguments=None, task=None, **content):
    path = folder / "caption.pt"
    cfg = {"_name": None, "model": Namespace(**ARGUMENTS | (arguments or {})), "task": TASK | (task or {})}
    state = {"args": None, "cfg": cfg, "model": weights or fairseq_weights(case), "extra_state": {"epoch": 2}}
    torch.save(state | content, path)
    return path


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert str(path.parent) not in str(error.value)
    return str(error.value)


def assert_same_model(checkpoint, case):
    golden = load_checkpoint(golden_checkpoint(case))
    assert checkpoint.source_format == "fairseq"
    assert checkpoint.config == golden.config
    assert checkpoint.state_dict.keys() == golden.state_dict.keys()
    assert all(torch.equal(tensor, golden.state_dict[name]) for name, tensor in checkpoint.state_dict.items())


def test_an_english_checkpoint(folder):
    checkpoint = load_checkpoint(write(folder))
    assert_same_model(checkpoint, "en-default")
    assert checkpoint.settings.prompt == " what does the image describe?"
    assert (checkpoint.settings.patch_image_size, checkpoint.settings.max_src_length) == (128, 80)
    generation = checkpoint.settings.generation
    assert (generation.beam_size, generation.max_length, generation.min_length) == (4, 18, 1)
    assert (generation.no_repeat_ngram_size, generation.length_penalty, generation.unk_penalty) == (2, 0.9, 0.5)


def test_the_dictionaries_become_the_published_vocabulary(folder):
    files = load_checkpoint(write(folder)).tokenizer_files
    assert json.loads(files["vocab.json"]) == json.loads((golden_checkpoint() / "vocab.json").read_text())
    assert files["merges.txt"] == (golden_checkpoint() / "merges.txt").read_bytes()


def test_a_chinese_checkpoint(tmp_path):
    write_chinese_dictionaries(tmp_path / "utils" / "BERT_CN_dict")
    checkpoint = load_checkpoint(write(tmp_path, "zh-default", task={"bpe": "bert", "patch_image_size": 160}))
    assert_same_model(checkpoint, "zh-default")
    assert (checkpoint.settings.language, checkpoint.settings.prompt) == ("zh", "图片描述了什么内容?")
    assert checkpoint.tokenizer_files["vocab.txt"] == (golden_checkpoint("zh-default") / "vocab.txt").read_bytes()


def test_the_structure_of_a_deeper_model(tmp_path):
    write_english_dictionaries(tmp_path / "BPE", "en-deep")
    task = {"patch_image_size": 192, "imagenet_default_mean_and_std": True}
    checkpoint = load_checkpoint(write(tmp_path, "en-deep", task=task))
    assert_same_model(checkpoint, "en-deep")
    assert checkpoint.settings.imagenet_default_mean_and_std


def test_arguments_of_an_older_file(folder):
    path = write(folder, cfg=None, args=Namespace(**ARGUMENTS, **TASK))
    assert_same_model(load_checkpoint(path), "en-default")


def test_a_directory_with_one_file(folder):
    write(folder)
    assert load_checkpoint(folder).source_format == "fairseq"
    (folder / "other.pt").write_bytes(b"")
    assert refusal(folder) == "the directory holds 2 .pt files; name the one to read"


def test_vocabulary_files_of_the_other_formats_beside_the_checkpoint(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(golden_checkpoint() / name)
    assert_same_model(load_checkpoint(write(tmp_path)), "en-default")


def test_arguments_that_weights_do_not_show(folder):
    arguments = {"no_scale_embedding": False, "activation_fn": "relu", "interpolate_position": True}
    config = load_checkpoint(write(folder, arguments=arguments)).config
    assert (config.scale_embedding, config.activation_function, config.interpolate_position) == (True, "relu", True)


def renamed(path, old: bytes, new: bytes):
    """The file with another word in its pickle."""
    other = path.with_name("renamed.pt")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, content.replace(old, new) if name.endswith("data.pkl") else content)
    return other


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpys_numbers_are_read_as_pythons(folder, module):
    """OFA's own scripts keep the best score as one; numpy 1 and 2 have other names for it."""
    scores = {"best": np.float64(1.25), "val_loss": np.float32(2.5), "updates": np.array(7, dtype=">i4")[()]}
    path = renamed(write(folder, extra_state=scores), b"numpy.core.multiarray", module)
    assert_same_model(load_checkpoint(path), "en-default")
    assert read_pickle(path)["extra_state"] == {"best": 1.25, "val_loss": 2.5, "updates": 7}
    assert {type(value) for value in read_pickle(path)["extra_state"].values()} == {float, int}


def test_numpys_numbers_in_a_file_of_the_old_format(folder):
    torch.save({"best": np.float64(1.25)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    assert read_pickle(folder / "old.pt") == {"best": 1.25}


@pytest.mark.parametrize("kind", ["O", "V8", "U4", [("a", "f8")]])
def test_numpys_other_types_are_refused(folder, kind):
    assert refusal(write(folder, extra_state=np.dtype(kind))).startswith("caption.pt is refused: ")


def test_beside_numpys_numbers_only_what_is_refused_is_named(folder):
    path = write(folder, extra_state={"best": np.float64(1), "where": PurePosixPath("here")})
    assert refusal(path) == "caption.pt is refused: beside weights it holds pathlib.PurePosixPath"


def test_heads_that_were_not_scaled_are_scaled_by_one(folder):
    weights = {name: tensor for name, tensor in fairseq_weights("en-default").items() if "c_attn" not in name}
    checkpoint = load_checkpoint(write(folder, weights=weights))
    scales = [tensor for name, tensor in checkpoint.state_dict.items() if name.endswith("c_attn")]
    assert len(scales) == 6
    assert all(torch.equal(scale, torch.ones(4)) for scale in scales)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sync_bn", True),
        ("scale_resids", True),
        ("adapter", True),
        ("encoder_prompt", True),
        ("resnet_model_path", "resnet.pth"),
        ("activation_fn", "tanh"),
        ("num_bins", 500),
        ("constraint_range", "4,10"),
    ],
)
def test_an_argument_that_cannot_be_honoured_is_named(folder, name, value):
    named = {"activation_fn": "activation_function"}.get(name, name)
    assert f"{named} is {value!r}; " in refusal(write(folder, arguments={name: value}))


def test_dictionaries_are_found_from_where_ofas_scripts_save(tmp_path):
    write_english_dictionaries(tmp_path / "utils" / "BPE")
    folder = tmp_path / "run_scripts" / "caption" / "stage1_checkpoints" / "2_0.06_2500"
    folder.mkdir(parents=True)
    assert_same_model(load_checkpoint(write(folder)), "en-default")


def test_missing_dictionaries_are_named(tmp_path):
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    assert refusal(write(folder)) == (
        "the checkpoint's dictionaries are missing: put utils/BPE/{dict.txt, encoder.json, vocab.bpe} or "
        "utils/BERT_CN_dict/{dict.txt, vocab.txt} beside it"
    )


def test_damaged_dictionaries_are_named(folder):
    (folder.parent / "utils" / "BPE" / "encoder.json").write_text("{")
    assert refusal(write(folder)) == "the dictionaries dict.txt, encoder.json, vocab.bpe are damaged"


@pytest.mark.parametrize(
    "weights", [{"linear.weight": torch.zeros(2, 2)}, {"encoder.embed_tokens.weight": torch.zeros(2)}]
)
def test_another_kind_of_model_is_refused(folder, weights):
    assert refusal(write(folder, weights=weights)) == "the fairseq checkpoint is not of an OFA model"


@pytest.mark.parametrize("content", [{"epoch": 1}, [1], {"model": [1]}, {"model": {"a": 1}}])
def test_a_file_without_weights_is_refused(folder, content):
    torch.save(content, folder / "caption.pt")
    assert refusal(folder / "caption.pt") == "caption.pt is no fairseq checkpoint: it has no weights under 'model'"


def test_settings_kept_in_objects_of_another_library_are_refused_by_name(folder):
    path = write(folder, extra_state=PurePosixPath("here"))
    assert refusal(path) == "caption.pt is refused: beside weights it holds pathlib.PurePosixPath"
