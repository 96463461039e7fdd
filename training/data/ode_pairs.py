"""Trajectories of the teacher: a few states from noise to clean, a prompt and a seed (06 §2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hallo_live_core.config import TransformerConfig

from .prompts import prompt_key
from .shards import Samples, ShardStore, check_shapes

VIDEO, AUDIO = "video", "audio"


@dataclass(frozen=True, slots=True)
class ClipSize:
    """Latents of a training clip: `height` and `width` count latents, not pixels."""

    video_latents: int = 30
    audio_latents: int = 150
    height: int = 32
    width: int = 62

    def shapes(self, config: TransformerConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of one sample: video [f, c, h, w], audio [a, c]."""
        return {
            VIDEO: (self.video_latents, config.video.in_channels, self.height, self.width),
            AUDIO: (self.audio_latents, config.audio.in_channels),
        }


def pair_key(prompt: str, seed: int) -> str:
    """Names a trajectory."""
    return f"{prompt_key(prompt)}-{seed}"


def open_clips(
    folder: Path, size: ClipSize, config: TransformerConfig, *, verify: bool = False
) -> ShardStore:
    """Clean clips for the teacher's training: video [f, c, h, w], audio [a, c], info "prompt".

    Raises:
        DataError: damaged, or of other shapes.
    """
    store = ShardStore(folder, verify=verify)
    check_shapes(store, size.shapes(config))
    return store


def open_pairs(
    path: Path, size: ClipSize, config: TransformerConfig, *, steps: int, verify: bool = False
) -> Samples:
    """Trajectories from a folder of shards or from the reference's LMDB environment.

    video [state, f, c, h, w], audio [state, a, c], noisiest state first; info "prompt". There is a
    state for each of the student's `steps`, and the clean end.

    Raises:
        DataError: damaged, or of other shapes.
        HalloLiveError: it is an LMDB environment and lmdb is not installed.
    """
    shapes = {name: (steps + 1, *shape) for name, shape in size.shapes(config).items()}
    if (Path(path) / "data.mdb").exists():
        from .lmdb_layout import LmdbPairs

        return LmdbPairs(path, shapes)
    store = ShardStore(path, verify=verify)
    check_shapes(store, shapes)
    return store
