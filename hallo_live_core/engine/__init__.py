"""The only place where the parts meet."""

from .engine import HalloLive
from .first_frame import load_first_frame
from .parts import DECODERS

__all__ = ["DECODERS", "HalloLive", "load_first_frame"]
