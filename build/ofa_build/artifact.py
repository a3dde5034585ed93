"""A checkpoint becomes ``artifacts/NAME/``: engines, repository, known image and manifest, whole or not at all."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ofa_serving.contract import MAX_LENGTH, Names
from ofa_serving.host import installed_version, visible_gpu
from ofa_serving.images import load_pixels
from ofa_serving.local import LocalCaptioner
from ofa_serving.manifest import FILE_NAME, CheckpointRecord, FileRecord, Manifest

from .checkpoint import Checkpoint, CheckpointError
from .export.graphs import CROSS, ENCODER, STEP, export_graphs, weights_of
from .export.quantization import quantize_encoder, quantize_projection
from .model import OFA
from .plans import build_plan
from .replacing import replacing
from .repository import Serving, Shape, model_configs, write_configs

log = logging.getLogger(__name__)

KNOWN_IMAGE = Path(__file__).parent / "known_image.jpg"
"""The image whose caption every server must give before it is ready."""

_POSITIONS = MAX_LENGTH + 1
"""Of the decoder, which the longest caption that may be asked for and its end take."""


def build_artifact(
    checkpoint: Checkpoint, source: str, name: str, artifacts: Path, serving: Serving, pictures: Sequence[bytes] = ()
) -> Path:
    """Builds the engines and everything around them.

    Args:
        checkpoint: what to build.
        source: the name it was asked for by, for the manifest.
        name: the public model's name and the folder's.
        artifacts: where the folder goes; an older one of this name is replaced when the new one is complete.
        serving: how the models will run.
        pictures: for int8, files of pictures like those to be captioned.

    Returns:
        ``artifacts/name``.

    Raises:
        CheckpointError: the checkpoint can be read, but not served.
        PlanError: TensorRT does not build a graph.
        OSError: there is no room for the folder, or it cannot be replaced; the older one is then still there.
    """
    _check_positions(checkpoint)
    artifacts.mkdir(parents=True, exist_ok=True)
    with replacing(artifacts / name) as folder:
        _fill(folder, checkpoint, source, name, serving, pictures)
    return artifacts / name


def _check_positions(checkpoint: Checkpoint) -> None:
    # Two rows of the table are beyond what the configuration counts.
    most, needed = checkpoint.config.max_position_embeddings, _POSITIONS - 2
    if most < needed:
        raise CheckpointError(
            f"max_position_embeddings is {most}: to serve captions of up to {MAX_LENGTH} tokens takes {needed} or more"
        )


def _fill(
    folder: Path, checkpoint: Checkpoint, source: str, name: str, serving: Serving, pictures: Sequence[bytes]
) -> None:
    names, settings = Names(name), checkpoint.settings
    repository = folder / "model_repository"
    log.info("exporting the graphs")
    encoder, search = (repository / model / "1" for model in (names.encoder, names.beam_search))
    length = _write_graphs(encoder, search, checkpoint, serving.precision)
    if serving.precision == "int8":
        log.info("quantizing, by %d pictures", len(pictures))
        quantize_encoder(encoder / ENCODER, (load_pixels(file, settings.patch_image_size) for file in pictures))
        quantize_projection(search / STEP)
    shape = Shape(settings.patch_image_size, length, checkpoint.config.d_model, settings.language)
    write_configs(repository, names, model_configs(names, shape, settings.generation, serving))
    for file_name, content in checkpoint.tokenizer_files.items():
        (search / file_name).write_bytes(content)
    log.info("captioning the known image")
    _write_canary(folder, name, serving)
    if serving.engine == "tensorrt":
        _replace_by_plans(repository, names, serving)
    _manifest(folder, checkpoint, source, name, shape, serving).write(folder / FILE_NAME)


def _write_graphs(encoder: Path, decoder: Path, checkpoint: Checkpoint, precision: str) -> int:
    encoder.mkdir(parents=True)
    decoder.mkdir(parents=True)
    settings, tokenizer = checkpoint.settings, checkpoint.tokenizer
    model = OFA(checkpoint.config).eval()
    model.load_state_dict(dict(checkpoint.state_dict))
    return export_graphs(
        encoder,
        decoder,
        model,
        special=tokenizer.special,
        prompt=tokenizer.encode_prompt(settings.prompt, settings.max_src_length),
        image_size=settings.patch_image_size,
        mean=settings.mean,
        std=settings.std,
        positions=_POSITIONS,
        precision=precision,
    )


def _write_canary(folder: Path, name: str, serving: Serving) -> None:
    # On the CPU and before a plan replaces a graph: neither needs the GPU that will serve it. All captions of a search
    # are known: a processor whose sums round otherwise may take another one of two that are equally good.
    engine = "onnxruntime" if serving.engine == "tensorrt" else serving.engine
    image = KNOWN_IMAGE.read_bytes()
    with LocalCaptioner(folder / "model_repository", name, engine=engine, device="cpu") as captioner:
        (captions,) = captioner.captions([image], num_captions=captioner.defaults.beam_size)
    if not captions:
        raise CheckpointError(
            f"in {serving.precision} the model has no caption for the known image: its numbers overflow"
        )
    (folder / "canary").mkdir()
    (folder / "canary" / "image").write_bytes(image)
    expected = json.dumps({"captions": captions}, ensure_ascii=False)
    (folder / "canary" / "canary.json").write_text(f"{expected}\n", encoding="utf-8")


def _replace_by_plans(repository: Path, names: Names, serving: Serving) -> None:
    search = repository / names.beam_search / "1"
    graphs = {
        repository / names.encoder / "1" / ENCODER: serving.encoder_batch,
        search / CROSS: serving.max_captions,
        search / STEP: serving.max_captions,
    }
    for graph, most in graphs.items():
        build_plan(graph, graph.with_suffix(".plan"), most)
        graph.unlink()
        weights_of(graph).unlink(missing_ok=True)


def _manifest(folder: Path, checkpoint: Checkpoint, source: str, name: str, shape: Shape, serving: Serving) -> Manifest:
    config = checkpoint.config
    packages = {"onnxruntime", "onnx", "onnxscript", "torch", "numpy", "pillow", "tokenizers", serving.engine}
    return Manifest(
        name=name,
        checkpoint=CheckpointRecord(source, checkpoint.source_format, checkpoint.sha256),
        language=shape.language,
        sizes={
            "image_size": shape.image_size,
            "source_length": shape.source_length,
            "d_model": config.d_model,
            "encoder_layers": config.encoder_layers,
            "decoder_layers": config.decoder_layers,
            "vocab_size": config.vocab_size,
            "parameters": int(np.sum([tensor.numel() for tensor in _distinct(checkpoint)])),
        },
        engine=serving.engine,
        precision=serving.precision,
        device="gpu" if serving.gpu else "cpu",
        gpu=visible_gpu() if serving.engine == "tensorrt" else None,
        versions={package: installed_version(package) or "" for package in sorted(packages)},
        files=FileRecord.all_of(folder),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _distinct(checkpoint: Checkpoint) -> Iterable:
    """The weights, those that share memory counted once."""
    return {tensor.data_ptr(): tensor for tensor in checkpoint.state_dict.values()}.values()
