"""What a checkpoint holds once it is read, whatever format it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ofa_serving.generation import GenerationConfig
from ofa_serving.tokenizer import Tokenizer
from torch import Tensor

from ..model.config import OFAConfig

ENGLISH_PROMPT = " what does the image describe?"  # the blank in front is part of it
CHINESE_PROMPT = "图片描述了什么内容?"

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class CheckpointError(ValueError):
    """A checkpoint cannot be read or honoured; the message is one sentence that names the file or field."""


@dataclass(frozen=True)
class PipelineSettings:
    """What ``configuration.json`` says beside the model's structure; the defaults are ModelScope's."""

    language: str = "en"
    prompt: str = ENGLISH_PROMPT
    patch_image_size: int = 480  # the side of the image the encoder sees, in pixels
    imagenet_default_mean_and_std: bool = False
    max_src_length: int = 256  # tokens of the prompt
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    @property
    def mean(self) -> tuple[float, float, float]:
        """What is taken off each channel of pixels in 0 to 1."""
        return (_IMAGENET if self.imagenet_default_mean_and_std else _HALF)[0]

    @property
    def std(self) -> tuple[float, float, float]:
        """What each channel is then divided by."""
        return (_IMAGENET if self.imagenet_default_mean_and_std else _HALF)[1]


@dataclass(frozen=True)
class Checkpoint:
    """One captioning model: structure, weights, vocabulary and settings, checked against each other."""

    config: OFAConfig
    settings: PipelineSettings
    state_dict: Mapping[str, Tensor]  # float32, every name of the model and no other
    tokenizer_files: Mapping[str, bytes]  # by name, as ModelScope has them
    source_format: str  # "modelscope", "huggingface" or "fairseq"
    sha256: str  # of the weights as they came

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read anew."""
        return Tokenizer.parse(self.tokenizer_files, self.settings.language)

    def has_vocabulary_of(self, other: Checkpoint) -> bool:
        """Tell whether both tokenizers are one, ids and merges alike, however their files are written."""
        return self.tokenizer.is_same_as(other.tokenizer)
