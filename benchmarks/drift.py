"""How far each part of the light profile leads away from the plain path, block by block.

    python -m benchmarks.drift                     the tiny model of the tests, seconds
    python -m benchmarks.drift --layers 8 --dim 512

Random weights, the same noise, float32 on the CPU; relative L2 distance of the clean latents of
picture and sound. Trained weights have other distributions: these numbers bound nothing there, they
show that an error neither explodes from block to block nor hides. The opening, a shorter first
block, is compared by seconds, with noise that belongs to places instead of blocks. What needs more
than random weights or this machine has a row that says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.parity import distance
from hallo_live_core.checkpoints import load_transformer
from hallo_live_core.checkpoints.eight_bit import load_transformer_in_8_bits
from hallo_live_core.checkpoints.tiny_weights import TRANSFORMER
from hallo_live_core.config import (
    FULL,
    LIGHT,
    BlockSizes,
    Profile,
    StreamConfig,
    TransformerConfig,
)
from hallo_live_core.functional.blocks import Block, ClipPlan
from hallo_live_core.functional.noise import ClipShape, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit.fusion import DualStreamDiT
from hallo_live_core.models.dit.weights import to_published
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import LatentBlock, TextContext

BLOCKS = 5
TEXT_TOKENS = 24
CPU = torch.device("cpu")
MODULATION = 0.3
"""Size of shifts, scales and gates, as in the tiny model: branches count, and nothing explodes."""

PROFILES = (
    ("fp8 weights", Profile(fp8_weights=True)),
    ("fp8 cache", Profile(fp8_cache=True)),
    ("both", LIGHT),
)

OPENING = 3
"""Video latents of the shorter first block."""

UNMEASURED = (
    ("8-bit attention", "not measured: needs the package sageattention and a GPU"),
    ("light decoder", "latents as they are; its pictures need the published weights: not measured"),
)


class PlacedNoise(SeededNoise):
    """Noise of every latent by its place in the clip, however that is cut into blocks."""

    def initial_video(self, block: Block) -> torch.Tensor:
        """See `NoiseSource`."""
        return self._video("initial", block)

    def initial_audio(self, block: Block) -> torch.Tensor:
        """See `NoiseSource`."""
        return self._audio("initial", block)

    def fresh(self, block: Block, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `NoiseSource`."""
        return self._video(f"step {step}", block), self._audio(f"step {step}", block)

    def _video(self, when: str, block: Block) -> torch.Tensor:
        places = range(block.first_video, block.end_video)
        drawn = [self.draw(f"video/{at}/{when}", 1, *self.shape.video) for at in places]
        return torch.cat(drawn, dim=1)

    def _audio(self, when: str, block: Block) -> torch.Tensor:
        places = range(block.first_audio, block.end_audio)
        drawn = [self.draw(f"audio/{at}/{when}", 1, self.shape.audio_channels) for at in places]
        return torch.cat(drawn, dim=1)


def wider(layers: int, dim: int) -> TransformerConfig:
    """The published proportions at another width, heads of 128."""
    shared = {"dim": dim, "ffn_dim": dim * 14 // 3, "num_heads": max(1, dim // 128)}
    shared |= {"freq_dim": 64, "text_dim": 64}
    return TransformerConfig(
        video=StreamConfig(in_channels=48, patch=(1, 2, 2), **shared),
        audio=StreamConfig(in_channels=20, patch=(1,), **shared),
        num_layers=layers,
    )


def random_weights(config: TransformerConfig) -> dict[str, torch.Tensor]:
    """Published names; matrices that keep the size of what they are given."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for name, like in DualStreamDiT(config, device="meta").state_dict().items():
        scale = MODULATION if "modulation" in name else like[0].numel() ** -0.5
        value = torch.randn(like.shape, generator=generator) * (scale if like.ndim > 1 else 0.05)
        is_norm = "norm" in name and name.endswith("weight")
        weights[name] = (value + 1.0 if is_norm else value).contiguous()
    return {name: value.contiguous() for name, value in to_published(weights).items()}


def clip(
    path: Path,
    profile: Profile,
    height: int,
    width: int,
    *,
    opening: int = 0,
    noise_of: type[SeededNoise] = SeededNoise,
) -> list[LatentBlock]:
    """Five seconds of latents with the weights in a file."""
    load = load_transformer_in_8_bits if profile.fp8_weights else load_transformer
    model = load(path, dtype=torch.float32)
    plan = ClipPlan(BlockSizes(), BLOCKS + (opening > 0), opening=opening)
    schedule = NoiseSchedule()
    generator = torch.Generator().manual_seed(1)
    width_of_text = model.config.video.text_dim
    text = TextContext.shared(torch.randn(1, TEXT_TOKENS, width_of_text, generator=generator))
    shape = SessionShape(plan, height, width, fp8_cache=profile.fp8_cache)
    state = open_session(model, text, shape, schedule, dtype=torch.float32)
    size = ClipShape(plan, (model.config.video.in_channels, height, width), 20)
    noise = noise_of(size, 0, device=CPU, dtype=torch.float32)
    return list(stream_blocks(Denoiser(model, state, schedule), noise))


def seconds(blocks: list[LatentBlock]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Picture and sound of every second, however the clip is cut into blocks."""
    sizes = BlockSizes()
    video = torch.cat([block.video for block in blocks], dim=1).split(sizes.video_latents, dim=1)
    audio = torch.cat([block.audio for block in blocks], dim=1).split(sizes.audio_latents, dim=1)
    return list(zip(video, audio, strict=True))


def distances(one: list[LatentBlock], other: list[LatentBlock]) -> list[tuple[float, float]]:
    """(picture, sound) of every second."""
    pairs = zip(seconds(one), seconds(other), strict=True)
    return [(distance(a[0], b[0]), distance(a[1], b[1])) for a, b in pairs]


@torch.inference_mode()
def drift(
    config: TransformerConfig, height: int, width: int
) -> dict[str, list[tuple[float, float]]]:
    """For every switch, (picture, sound) of each second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        save_file(random_weights(config), path)
        plain = clip(path, FULL, height, width)
        found = {
            name: distances(clip(path, profile, height, width), plain) for name, profile in PROFILES
        }
        placed = clip(path, FULL, height, width, noise_of=PlacedNoise)
        cut = clip(path, FULL, height, width, opening=OPENING, noise_of=PlacedNoise)
        return found | {f"opening of {OPENING}": distances(cut, placed)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, help="of a wider random model; default: the tiny one")
    parser.add_argument("--dim", type=int, default=512, help="width of both streams")
    parser.add_argument("--latents", type=int, nargs=2, default=(4, 6), metavar=("H", "W"))
    options = parser.parse_args()
    config = TRANSFORMER if options.layers is None else wider(options.layers, options.dim)
    lines = ["| profile | " + " | ".join(f"block {i + 1}" for i in range(BLOCKS)) + " |"]
    lines.append("|---" * (BLOCKS + 1) + "|")
    for name, blocks in drift(config, *options.latents).items():
        cells = (f"{100 * video:.2f} / {100 * audio:.2f}" for video, audio in blocks)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [f"| {name} | {why} |" + " |" * (BLOCKS - 1) for name, why in UNMEASURED]
    sys.stdout.write("Percent, picture / sound\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
