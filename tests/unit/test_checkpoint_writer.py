"""A written checkpoint is ModelScope's format, and reads back as it was."""

import json
from dataclasses import replace

import pytest
import torch
from ofa_build.checkpoint import load_checkpoint, save_checkpoint
from ofa_build.model import OFA
from small_checkpoints import GOLDEN, golden_checkpoint

CASES = sorted(path.name for path in GOLDEN.iterdir() if (path / "checkpoint").exists())


@pytest.mark.parametrize("case", CASES)
def test_a_written_checkpoint_reads_back_as_it_was(tmp_path, case):
    checkpoint = load_checkpoint(golden_checkpoint(case))
    directory = tmp_path / "written"
    save_checkpoint(
        directory, checkpoint.config, checkpoint.state_dict, checkpoint.settings, checkpoint.tokenizer_files
    )
    again = load_checkpoint(directory)
    assert replace(again, state_dict={}, sha256="") == replace(checkpoint, state_dict={}, sha256="")
    assert all(torch.equal(tensor, again.state_dict[name]) for name, tensor in checkpoint.state_dict.items())


def test_a_trained_model_is_written_in_half_precision_with_its_tied_weights_once(tmp_path):
    golden = load_checkpoint(golden_checkpoint())
    model = OFA(golden.config)
    save_checkpoint(tmp_path, golden.config, model.state_dict(), golden.settings, golden.tokenizer_files)
    stored = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16, torch.int64}
    own = sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "pytorch_model.bin").stat().st_size < 2.2 * own


def test_the_files_say_what_modelscopes_pipeline_asks_of_them(tmp_path):
    golden = load_checkpoint(golden_checkpoint("zh-default"))
    save_checkpoint(tmp_path, golden.config, golden.state_dict, golden.settings, golden.tokenizer_files)
    configuration = json.loads((tmp_path / "configuration.json").read_text(encoding="utf-8"))
    original = json.loads((golden_checkpoint("zh-default") / "configuration.json").read_text(encoding="utf-8"))
    for section in ("framework", "task", "pipeline", "preprocessor"):
        assert configuration[section] == original[section]
    assert (
        configuration["model"].items()
        >= {name: value for name, value in original["model"].items() if name not in ("seed", "beam_search")}.items()
    )
    assert configuration["model"]["beam_search"].items() >= original["model"]["beam_search"].items()
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"], config["torch_dtype"]) == ("ofa", ["OFAModel"], "float16")
