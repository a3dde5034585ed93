"""int8 for a CPU: of the encoder its convolutions, of the decoder the weights of the vocabulary projection.

The convolutions are most of a caption's arithmetic, and that projection's weights are most of what a step reads. What
else there is stays as it was: it would gain little, and attention loses most by rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from .graphs import weights_of

PROJECTION = "head.projection.weight"
"""The vocabulary projection's weights [V, d] in the step's graph, see :class:`.vocabulary.VocabularyHead`."""


class _Pictures(CalibrationDataReader):
    def __init__(self, name: str, pixels: Iterable[np.ndarray]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = ({name: picture[None]} for picture in pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantize_encoder(path: Path, pixels: Iterable[np.ndarray]) -> None:
    """Rewrites an encoder whose convolutions take and weigh 8-bit numbers, with a scale for each output channel.

    The first, which reads the pixels, stays: it is a few hundredths of the arithmetic, and rounding it changed twice as
    many of the bundled checkpoint's captions. Only what a convolution reads is rounded, the residual stream with it,
    and not what it gives: before its Relu that has two signs, and it would be rounded twice.

    Args:
        path: the exported graph.
        pixels: of pictures like those to come, UINT8 [S, S, 3]; the range of what each convolution takes is theirs.
    """
    model, beside = _take(path)
    add_pre_process_metadata(model)  # the exporter has inferred the shapes and folded the constants
    quantize_static(
        model,
        path,
        _Pictures(model.graph.input[0].name, pixels),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=[next(node.name for node in model.graph.node if node.op_type == "Conv")],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=beside,
        extra_options={"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": ["Conv"]},
    )
    onnx.checker.check_model(path)


def quantize_projection(path: Path) -> None:
    """Rewrites a step whose vocabulary projection reads 8-bit weights, with a scale for each token."""
    model, beside = _take(path)
    graph = model.graph
    weights = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == PROJECTION))
    scales = np.abs(weights).max(axis=1) / 127
    scales[scales == 0] = 1
    rounded = np.rint(weights / scales[:, None]).astype(np.int8)
    names = f"{PROJECTION}.int8", f"{PROJECTION}.scale"
    graph.initializer.extend([numpy_helper.from_array(rounded, names[0]), numpy_helper.from_array(scales, names[1])])
    place, projection = next(
        (place, node) for place, node in enumerate(graph.node) if node.op_type == "Gemm" and PROJECTION in node.input
    )
    projection.input[list(projection.input).index(PROJECTION)] = f"{PROJECTION}.read"
    read = helper.make_node("DequantizeLinear", names, [f"{PROJECTION}.read"], axis=0)
    graph.node.insert(place, read)
    if not any(PROJECTION in node.input for node in graph.node):  # else they are the token embeddings too
        del graph.initializer[[tensor.name for tensor in graph.initializer].index(PROJECTION)]
    onnx.save(model, path, save_as_external_data=beside, location=weights_of(path).name)
    onnx.checker.check_model(path)


def _take(path: Path) -> tuple[onnx.ModelProto, bool]:
    """Reads a graph that is to be written again; its weights, and whether they lay in a file beside it."""
    model = onnx.load(path)
    beside = weights_of(path).exists()
    weights_of(path).unlink(missing_ok=True)  # writing appends to it
    return model, beside
