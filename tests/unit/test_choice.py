"""What is built where the user leaves the engine or the precision to the machine."""

import pytest
from ofa_build.choice import ChoiceError, choose, cpu_instructions

PLAIN = frozenset({"avx2"})
VNNI = frozenset({"avx2", "avx512_vnni"})
BF16 = frozenset({"avx2", "avx512_bf16"})

CHOSEN = {
    "exact unless asked": (
        ("auto", "fp32", "cpu", BF16),
        ("onnxruntime", "fp32"),
        "fastest measured in fp32",
    ),
    "bf16 in the engine that has it": (("auto", "bf16", "cpu", BF16), ("openvino", "bf16"), "fastest measured in bf16"),
    "the fastest": (("auto", "auto", "cpu", BF16), ("openvino", "bf16"), "this CPU has avx512_bf16"),
    "the fastest without bf16": (("auto", "auto", "cpu", PLAIN), ("onnxruntime", "fp32"), "nothing faster"),
    "the fastest of an engine": (("onnxruntime", "auto", "cpu", BF16), ("onnxruntime", "fp32"), "nothing faster"),
    "as asked": (("openvino", "fp32", "cpu", PLAIN), ("openvino", "fp32"), "as asked"),
    "asked for what this CPU lacks": (("openvino", "bf16", "cpu", PLAIN), ("openvino", "bf16"), "expect no gain"),
    "int8": (("auto", "int8", "cpu", VNNI), ("openvino", "int8"), "as asked; openvino"),
    "int8 on a CPU without": (("auto", "int8", "cpu", BF16), ("openvino", "int8"), "no int8 instructions"),
    "a GPU": (("auto", "fp32", "gpu", PLAIN), ("onnxruntime", "fp32"), "runs on every GPU"),
    "a GPU's fastest": (("auto", "auto", "gpu", BF16), ("onnxruntime", "fp16"), "half precision"),
    "a GPU's other engine": (("tensorrt", "auto", "gpu", PLAIN), ("tensorrt", "fp16"), "half precision"),
}


@pytest.mark.parametrize(("asked", "built", "why"), CHOSEN.values(), ids=CHOSEN)
def test_choices(asked, built, why):
    choice = choose(*asked)
    assert (choice.engine, choice.precision) == built
    assert why in choice.why


REFUSED = {
    ("onnxruntime", "bf16", "cpu"): "engine onnxruntime on a CPU is built in fp32, not in bf16",
    ("auto", "fp16", "cpu"): "engine openvino on a CPU is built in fp32 or bf16 or int8, not in fp16",
    ("onnxruntime", "int8", "cpu"): "engine onnxruntime on a CPU is built in fp32, not in int8",
    ("auto", "bf16", "gpu"): "engine onnxruntime on a GPU is built in fp32 or fp16, not in bf16",
    ("tensorrt", "int8", "gpu"): "engine tensorrt on a GPU is built in fp32 or fp16, not in int8",
    ("tensorrt", "fp32", "cpu"): "engine tensorrt is for --device gpu",
    ("openvino", "fp32", "gpu"): "engine openvino is for --device cpu",
}


@pytest.mark.parametrize(("asked", "words"), REFUSED.items(), ids=map(" ".join, REFUSED))
def test_what_is_not_built_is_refused(asked, words):
    with pytest.raises(ChoiceError, match=words):
        choose(*asked, BF16)


def test_instructions_are_the_first_processors_flags(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert cpu_instructions(tmp_path / "cpuinfo") == {"fpu", "avx2"}
    assert cpu_instructions(tmp_path / "absent") == frozenset()
