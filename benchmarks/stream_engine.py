"""Engines to measure: published files, tiny files written on the spot, or full size at random."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import fill_random
from hallo_live_core.checkpoints.eight_bit import is_matrix
from hallo_live_core.checkpoints.tiny import write_tiny_models
from hallo_live_core.cli.acceleration import acceleration
from hallo_live_core.cli.loading import load_engine
from hallo_live_core.cli.profile import decoder as chosen_decoder
from hallo_live_core.cli.profile import profile
from hallo_live_core.config import (
    FULL,
    HALLO_5B,
    TEXT_LENGTH,
    Acceleration,
    AudioVAEConfig,
    Profile,
    StreamSettings,
    TextEncoderConfig,
    TransformerConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.engine.acceleration import accelerate, check_acceleration
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.vocoder import BigVGAN
from hallo_live_core.models.dit import DualStreamDiT, fuse_projections
from hallo_live_core.models.dit.scaled_linear import (
    SCALED_OPS,
    ScaledLinear,
    multiplies_in_8_bits,
    rounded_rows,
)
from hallo_live_core.models.text_encoder.umt5 import TextEncoder, build_network
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEHVConfig
from hallo_live_core.models.video_vae.tuning import tune
from hallo_live_core.sampling.split import SplitTransformer

LETTERS_PER_TOKEN = 4
"""Of English prose, roughly; the published tokenizer is not at hand where weights are random."""


@contextlib.contextmanager
def opened(options: argparse.Namespace, on: Placement) -> Iterator[HalloLive]:
    """The engine that the options name; files that were written for it go afterwards."""
    if options.models is not None:
        yield load_engine(options, on)
    elif options.size == "full":
        how, gives_up = acceleration(options), profile(options)
        yield random_engine(on, chosen_decoder(options), how, gives_up)
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.models = write_tiny_models(Path(folder))
            yield load_engine(options, on)


@dataclass(frozen=True)
class Sizes:
    """Of all networks; the published ones."""

    transformer: TransformerConfig = HALLO_5B
    video_vae: VideoVAEConfig = field(default_factory=VideoVAEConfig)
    taehv: TAEHVConfig = field(default_factory=TAEHVConfig)
    audio_vae: AudioVAEConfig = field(default_factory=AudioVAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)


def random_engine(
    on: Placement,
    decoder: str,
    how: Acceleration,
    gives_up: Profile = FULL,
    sizes: Sizes | None = None,
) -> HalloLive:
    """Random weights, made on their devices; of the published sizes, if no others are given."""
    sage = gives_up.sage_attention
    check_acceleration(how, on.transformer, split=bool(on.sharers), sage=sage)
    sizes = sizes or Sizes()
    ops = SCALED_OPS if gives_up.fp8_weights else torch.nn
    place = {"device": on.transformer, "dtype": on.dtype}
    transformer = DualStreamDiT(sizes.transformer, ops=ops, **place)
    fill_random(transformer)
    if gives_up.fp8_weights:
        round_matrices(transformer, on.dtype)
    fuse_projections(transformer)
    ranks = (on.transformer, *on.sharers)
    at = {"device": on.decoder, "dtype": on.decoder_dtype}
    light = decoder == "taehv"
    video = TAEHV(sizes.taehv, **at) if light else WanVideoDecoder(sizes.video_vae, **at)
    fill_random(video)
    tune(video, on.decoder)
    with on.decoder:
        sound = AudioDecoder(MMAudioVAE(sizes.audio_vae), BigVGAN(sizes.vocoder))
    text = build_network(sizes.text_encoder, device=on.text_encoder, dtype=on.dtype)
    words = partial(random_tokens, vocabulary=sizes.text_encoder.vocab_size)
    return HalloLive(
        transformer=accelerate(
            SplitTransformer(transformer, ranks) if on.sharers else transformer, how, sage=sage
        ),
        video_decoder=video,
        audio_decoder=fill_random(sound.to(on.decoder)),
        text_encoder=TextEncoder(fill_random(text), words),
        placement=on,
        settings=StreamSettings(fp8_cache=gives_up.fp8_cache),
    )


def round_matrices(transformer: DualStreamDiT, dtype: torch.dtype) -> None:
    """The matrices inside the layers to 8 bits, as loading does it."""
    for name, layer in transformer.named_modules():
        if isinstance(layer, ScaledLinear) and is_matrix(f"{name}.weight", layer.weight):
            values, layer.weight_scale = rounded_rows(layer.weight)
            layer.weight = torch.nn.Parameter(values, requires_grad=False)
            layer.in_8_bits = multiplies_in_8_bits(values.device, dtype)


def random_tokens(prompt: str, *, vocabulary: int) -> list[int]:
    """As many tokens as prose of that length has, ended as prompts are."""
    count = max(1, min(len(prompt) // LETTERS_PER_TOKEN, TEXT_LENGTH - 1))
    generator = torch.Generator().manual_seed(len(prompt))
    return [*torch.randint(3, vocabulary, (count,), generator=generator).tolist(), 1]
