"""Streams of networks and clips of random sizes, against the loop that follows the specification.

`benchmarks/reference` writes formulas down one by one and shares no network code with the product;
reference tensors exist for a few sizes only.
"""

import random

import pytest
import torch

from benchmarks.reference.rollout import rollout
from benchmarks.reference.transformer import ReferenceTransformer
from hallo_live_core.config import BlockSizes, ScheduleConfig, StreamConfig, TransformerConfig
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.noise import ClipShape, SeededNoise
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.dit import fuse_projections
from hallo_live_core.models.dit.weights import to_published
from hallo_live_core.sampling.denoiser import Denoiser, open_session
from hallo_live_core.sampling.sampler import stream_blocks
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import TextContext

from .dit_models import CPU, joined, normal, tiny_dit

WIDE = torch.float64
TOLERANCE = 2e-6
"""Relative L2, as for reference tensors; the rotary angles of both are made in float64."""


def random_network(chance: random.Random) -> TransformerConfig:
    """Streams of different widths, whose heads are equally wide."""
    head, text = chance.choice([10, 12, 16, 22]), {"text_dim": 6, "text_len": chance.choice([3, 8])}

    def stream(channels: int, patch: tuple[int, ...]) -> StreamConfig:
        heads = chance.choice([1, 2, 3])
        wide = {"dim": heads * head, "ffn_dim": chance.choice([8, 20]), "num_heads": heads}
        return StreamConfig(channels, **wide, patch=patch, freq_dim=chance.choice([8, 16]), **text)

    return TransformerConfig(
        video=stream(chance.choice([2, 5]), (1, 2, 2)),
        audio=stream(chance.choice([1, 4]), (1,)),
        num_layers=chance.choice([1, 2, 3]),
        audio_rope_scale=chance.choice([0.2, 0.19]),
    )


def random_plan(chance: random.Random) -> ClipPlan:
    """Also look-aheads beyond the next block, and a shorter first block."""
    video = chance.choice([1, 2, 3, 4])
    audio = video * chance.choice([1, 5])
    sizes = BlockSizes(video, audio, chance.choice([0, 1, audio, 2 * audio + 1]))
    opening = chance.choice([0, 1]) if video > 1 else 0
    return ClipPlan(sizes, chance.choice([2, 3, 4]), opening=opening)


@pytest.mark.parametrize("seed", range(12))
def test_a_stream_of_any_size_equals_the_plain_loop_of_the_specification(seed):
    chance = random.Random(seed)
    config, plan, batch = random_network(chance), random_plan(chance), chance.choice([1, 2])
    height, width = (2 * chance.choice([1, 2, 3]) for _ in range(2))
    schedule = NoiseSchedule(
        ScheduleConfig(
            shift=chance.choice([1.0, 3.0, 5.0]),
            steps=chance.choice([(1000, 750, 500, 250), (1000, 400), (800,)]),
            context_timestep=chance.choice([0.0, 40.0]),
        )
    )
    model = tiny_dit(config, dtype=WIDE)
    channels = (config.video.in_channels, config.audio.in_channels)
    length, dim = config.video.text_len, config.video.text_dim
    text = [normal(batch, length, dim, seed=i, dtype=WIDE) for i in (1, 2)]
    shape = ClipShape(plan, (channels[0], height, width), channels[1], batch=batch)
    noise = SeededNoise(shape, seed, device=CPU, dtype=WIDE)
    reference = ReferenceTransformer(to_published(model.state_dict()), config)
    videos, audios = rollout(reference, (text[0], text[1]), plan, schedule, noise)

    for network in (model, fuse_projections(model)):
        session = SessionShape(plan, height, width, batch=batch)
        state = open_session(network, TextContext(*text), session, schedule, dtype=WIDE)
        found = joined(list(stream_blocks(Denoiser(network, state, schedule), noise)))
        for ours, parts in zip(found, (videos, audios), strict=True):
            plain = torch.cat(parts, dim=1)
            assert (ours - plain).norm() <= TOLERANCE * plain.norm()
