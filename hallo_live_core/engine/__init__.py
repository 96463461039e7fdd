"""The only place where the parts meet."""

from .engine import HalloLive, decoding_thread
from .first_frame import load_first_frame
from .parts import DECODERS

__all__ = ["DECODERS", "HalloLive", "decoding_thread", "load_first_frame"]
