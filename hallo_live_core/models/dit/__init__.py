"""The dual-stream transformer: student, teacher and critic."""

from .fused import fuse_projections
from .fusion import DualStreamDiT, Flows, FusionBlock
from .passes import (
    CachedPass,
    MaskedPass,
    RaggedSizes,
    TeacherPass,
    stack_ragged,
    unstack_ragged,
)
from .visibility import Attention, sdpa

__all__ = [
    "Attention",
    "CachedPass",
    "DualStreamDiT",
    "Flows",
    "FusionBlock",
    "MaskedPass",
    "RaggedSizes",
    "TeacherPass",
    "fuse_projections",
    "sdpa",
    "stack_ragged",
    "unstack_ragged",
]
