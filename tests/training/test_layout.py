"""The layout of tensors that training uses changes what it takes, not what it computes."""

import torch
from ofa_build.checkpoint import load_checkpoint
from ofa_build.training.recipe import Recipe
from ofa_build.training.run import student
from small_model import write_small

STILL = Recipe(dropout=0.0, drop_path=0.0, freeze=())


def gradients(checkpoint, layout):
    """Of one step in double precision, in which rounding flips no ReLU."""
    model = student(checkpoint, STILL).to(memory_format=layout).double().train()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1
    prompt, inputs = torch.tensor([0, 20, 21, 2]), torch.tensor([[0, 30, 31]] * 3)
    model(pixels, prompt, inputs).square().mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_are_those_of_the_usual_layout(tmp_path):
    checkpoint = load_checkpoint(write_small(tmp_path / "checkpoint"))
    usual = gradients(checkpoint, torch.contiguous_format)
    trained = gradients(checkpoint, torch.channels_last)
    assert usual["encoder.embed_images.conv1.weight"].abs().max() > 1e-6
    for name, gradient in trained.items():
        torch.testing.assert_close(gradient, usual[name], rtol=1e-9, atol=1e-12, msg=name)
