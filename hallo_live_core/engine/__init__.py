"""The only place where the parts meet."""

from .engine import HalloLive
from .parts import DECODERS

__all__ = ["DECODERS", "HalloLive"]
