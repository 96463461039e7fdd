"""Engines to measure: published files, tiny files written on the spot, or full size at random."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import fill_random
from hallo_live_core.checkpoints.tiny import write_tiny_models
from hallo_live_core.cli.loading import load_engine
from hallo_live_core.config import (
    HALLO_5B,
    TEXT_LENGTH,
    AudioVAEConfig,
    TextEncoderConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.vocoder import BigVGAN
from hallo_live_core.models.dit import DualStreamDiT, fuse_projections
from hallo_live_core.models.text_encoder.umt5 import TextEncoder, build_network
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.layers import use_channels_last
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEHVConfig
from hallo_live_core.sampling.split import SplitTransformer

LETTERS_PER_TOKEN = 4
"""Of English prose, roughly; the published tokenizer is not at hand where weights are random."""


@contextlib.contextmanager
def opened(options: argparse.Namespace, on: Placement) -> Iterator[HalloLive]:
    """The engine that the options name; files that were written for it go afterwards."""
    if options.models is not None:
        yield load_engine(options, on)
    elif options.size == "full":
        yield full_size(on, options.decoder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.models = write_tiny_models(Path(folder))
            yield load_engine(options, on)


def full_size(on: Placement, decoder: str) -> HalloLive:
    """The published sizes with random weights, made on their devices."""
    transformer = DualStreamDiT(HALLO_5B, device=on.transformer, dtype=on.dtype)
    fuse_projections(fill_random(transformer))
    ranks = (on.transformer, *on.sharers)
    at = {"device": on.decoder, "dtype": on.decoder_dtype}
    video = (
        TAEHV(TAEHVConfig(), **at)
        if decoder == "taehv"
        else WanVideoDecoder(VideoVAEConfig(), **at)
    )
    fill_random(video)
    if on.decoder.type == "cuda":
        use_channels_last(video)
    with on.decoder:
        sound = AudioDecoder(MMAudioVAE(AudioVAEConfig()), BigVGAN(VocoderConfig()))
    text = build_network(TextEncoderConfig(), device=on.text_encoder, dtype=on.dtype)
    return HalloLive(
        transformer=SplitTransformer(transformer, ranks) if on.sharers else transformer,
        video_decoder=video,
        audio_decoder=fill_random(sound.to(on.decoder)),
        text_encoder=TextEncoder(fill_random(text), random_tokens),
        placement=on,
    )


def random_tokens(prompt: str) -> list[int]:
    """As many tokens as prose of that length has, ended as prompts are."""
    count = min(len(prompt) // LETTERS_PER_TOKEN, TEXT_LENGTH - 1)
    generator = torch.Generator().manual_seed(len(prompt))
    high = TextEncoderConfig().vocab_size
    return [*torch.randint(3, high, (max(count, 1),), generator=generator).tolist(), 1]
