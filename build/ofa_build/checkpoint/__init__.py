"""Reads and writes OFA checkpoints in the formats they are published in."""

from .reader import load_checkpoint
from .types import Checkpoint, CheckpointError, PipelineSettings
from .writer import save_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "PipelineSettings", "load_checkpoint", "save_checkpoint"]
