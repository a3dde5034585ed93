"""OFA's encoder-decoder in PyTorch, from its published structure."""

from .config import ConfigError, OFAConfig
from .ofa import OFA

__all__ = ["OFA", "ConfigError", "OFAConfig"]
