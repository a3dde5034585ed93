"""The deployable model repository of one checkpoint: configurations, Python models, engines and vocabulary."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from google.protobuf import text_format
from ofa_serving.contract import STAGES, STATES_ON_GPU, Names, Tensor
from ofa_serving.generation import GenerationConfig
from tritonclient.grpc import model_config_pb2 as pb

_PACKAGED = Path(__file__).with_name("model_repository")
SOURCES = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "model_repository"
"""The project's ``model_repository/``, whose ``model.py`` files every built checkpoint gets; wheels carry it."""


@dataclass(frozen=True)
class Shape:
    """What a checkpoint decides of the configurations: its image size S, source length N, width d, language."""

    image_size: int
    source_length: int
    d_model: int
    language: str


@dataclass(frozen=True)
class Serving:
    """How the models run; the defaults are for CPU.

    Attributes:
        engine: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        precision: ``fp32``, ``bf16`` and ``int8`` with OpenVINO, ``fp16`` on a GPU.
        device: ``cpu``, ``gpu``, or ``host``: as on a GPU, without one, for tests.
        states_on_gpu: whether the encoder's states reach the search without leaving the GPU.
        threads: of each CPU engine; 0 takes all cores.
        max_batch_size: images of one request.
        encoder_batch: images of one encoder run. On a CPU more gain nothing, and make memory and waiting grow.
        preprocess_instances: processes that decode images.
        max_in_flight: images that are taken at a time; one more is OVERLOADED.
        max_in_flight_bytes: bytes of their files.
        max_running: requests in the stages at a time; the others wait in line.
        max_captions: captions in the running beam search.
        max_pending: captions that may wait for it.
        max_seconds: the longest a request may take, whatever deadline it brings.
    """

    engine: str = "onnxruntime"
    precision: str = "fp32"
    device: str = "cpu"
    states_on_gpu: bool = False
    threads: int = 0
    max_batch_size: int = 16
    encoder_batch: int = 4
    preprocess_instances: int = 2
    max_in_flight: int = 64
    max_in_flight_bytes: int = 256 * 2**20
    max_running: int = 32
    max_captions: int = 16
    max_pending: int = 256
    max_seconds: int = 30

    @property
    def gpu(self) -> bool:
        """Whether Triton is to place the engines on a GPU."""
        return self.device == "gpu"

    @classmethod
    def on(cls, device: str, engine: str, precision: str) -> Serving:
        """The settings for a device."""
        if device == "cpu":
            return cls(engine, precision)
        return cls(
            engine,
            precision,
            device,
            max_batch_size=64,
            encoder_batch=64,
            preprocess_instances=8,
            max_in_flight=256,
            max_in_flight_bytes=2**30,
            max_running=128,
            max_captions=64,
        )


def model_configs(
    names: Names, shape: Shape, defaults: GenerationConfig, serving: Serving
) -> dict[str, pb.ModelConfig]:
    """The four configurations by model name."""
    configs = (
        _entry(names, defaults, serving),
        _preprocess(names, shape, serving),
        _encoder(names, shape, serving),
        _beam_search(names, shape, serving),
    )
    return {config.name: config for config in configs}


def write_configs(repository: Path, names: Names, configs: Mapping[str, pb.ModelConfig]) -> None:
    """Writes each model's folder with its ``config.pbtxt`` and, for Python models, its ``1/model.py``."""
    for name, source in zip(names.models, Names().models, strict=True):
        version = repository / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (repository / name / "config.pbtxt").write_text(as_text(configs[name]), encoding="utf-8")
        if configs[name].backend == "python":
            shutil.copyfile(SOURCES / source / "1" / "model.py", version / "model.py")


def as_text(config: pb.ModelConfig) -> str:
    """A configuration as a person would write it: one field a line, two spaces of indent."""
    return text_format.MessageToString(config)


def _model(name: str, backend: str, serving: Serving, *, instances: int = 1, gpu: bool = False) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=serving.max_batch_size)
    kind = pb.ModelInstanceGroup.KIND_GPU if gpu else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=instances)
    return config


def _set(config: pb.ModelConfig, parameters: Mapping[str, object]) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = str(value)


def _engine(serving: Serving) -> dict[str, object]:
    device = {} if serving.device == "cpu" else {"device": serving.device}
    return {"engine": serving.engine, "precision": serving.precision, "threads": serving.threads, **device}


def _hidden(serving: Serving) -> pb.DataType:
    return pb.TYPE_FP16 if serving.precision == "fp16" else pb.TYPE_FP32


def _entry(names: Names, defaults: GenerationConfig, serving: Serving) -> pb.ModelConfig:
    config = _model(names.public, "python", serving)
    config.input.add(name=Tensor.IMAGE, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=Tensor.CAPTION, data_type=pb.TYPE_STRING, dims=[-1])
    config.output.add(name=Tensor.SCORE, data_type=pb.TYPE_FP32, dims=[-1])
    config.output.add(name=Tensor.TOKENS, data_type=pb.TYPE_INT32, dims=[-1, -1])
    config.output.add(name=Tensor.TOKEN_LOGPROBS, data_type=pb.TYPE_FP32, dims=[-1, -1])
    config.output.add(name=Tensor.TIMING, data_type=pb.TYPE_FP32, dims=[len(STAGES)])
    _set(config, asdict(defaults))
    limits = ("encoder_batch", "max_in_flight", "max_in_flight_bytes", "max_running", "max_seconds")
    _set(config, {limit: getattr(serving, limit) for limit in limits})
    _set(config, {STATES_ON_GPU: 1} if serving.states_on_gpu else {})
    return config


def _preprocess(names: Names, shape: Shape, serving: Serving) -> pb.ModelConfig:
    config = _model(names.preprocess, "python", serving, instances=serving.preprocess_instances)
    config.input.add(name=Tensor.IMAGE, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=Tensor.PIXELS, data_type=pb.TYPE_UINT8, dims=[shape.image_size, shape.image_size, 3])
    config.output.add(name=Tensor.PREPROCESS_MS, data_type=pb.TYPE_FP32, dims=[1])
    _set(config, {"image_size": shape.image_size})
    return config


def _encoder(names: Names, shape: Shape, serving: Serving) -> pb.ModelConfig:
    # ONNX Runtime on CPU runs in Triton's own backend; OpenVINO has none there, and on a GPU the states may stay there.
    native = serving.engine == "onnxruntime" and serving.device == "cpu"
    backend = serving.engine if native else "python"
    config = _model(names.encoder, backend, serving, gpu=serving.gpu)
    config.max_batch_size = serving.encoder_batch
    pixels = [shape.image_size, shape.image_size, 3]
    config.input.add(name=Tensor.PIXELS, data_type=pb.TYPE_UINT8, dims=pixels)
    config.output.add(name=Tensor.HIDDEN, data_type=_hidden(serving), dims=[shape.source_length, shape.d_model])
    # Its result depends on the pixels alone. Only a server that is given a cache makes use of it (--cache-mib).
    config.response_cache.enable = not serving.gpu
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = serving.max_seconds * 1_000_000
    policy.allow_timeout_override = True  # the entry passes on what is left of a request's deadline
    policy.max_queue_size = serving.max_pending
    warmup = config.model_warmup.add(name="zeros", batch_size=1)
    warmup.inputs[Tensor.PIXELS].data_type = pb.TYPE_UINT8
    warmup.inputs[Tensor.PIXELS].dims.extend(pixels)
    warmup.inputs[Tensor.PIXELS].zero_data = True
    if native:
        # Threads that spin while idle would take the cores from the other stages.
        _set(config, {"intra_op_thread_count": serving.threads, "session.intra_op.allow_spinning": 0})
    else:
        _set(config, _engine(serving))
        _set(config, {STATES_ON_GPU: 1} if serving.states_on_gpu else {})
    return config


def _beam_search(names: Names, shape: Shape, serving: Serving) -> pb.ModelConfig:
    config = _model(names.beam_search, "python", serving, gpu=serving.gpu)
    config.input.add(name=Tensor.HIDDEN, data_type=_hidden(serving), dims=[shape.source_length, shape.d_model])
    config.output.add(name=Tensor.CAPTION, data_type=pb.TYPE_STRING, dims=[-1])
    config.output.add(name=Tensor.SCORE, data_type=pb.TYPE_FP32, dims=[-1])
    config.output.add(name=Tensor.TOKENS, data_type=pb.TYPE_INT32, dims=[-1, -1])
    config.output.add(name=Tensor.TOKEN_LOGPROBS, data_type=pb.TYPE_FP32, dims=[-1, -1])
    config.output.add(name=Tensor.SEARCH_MS, data_type=pb.TYPE_FP32, dims=[2])
    _set(
        config,
        {
            **_engine(serving),
            "language": shape.language,
            "max_captions": serving.max_captions,
            "max_pending": serving.max_pending,
            "max_in_flight": serving.max_captions + serving.max_pending,
            "max_seconds": serving.max_seconds,
        },
    )
    _set(config, {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"} if serving.states_on_gpu else {})
    return config
