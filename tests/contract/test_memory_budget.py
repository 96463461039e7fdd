"""What a run takes is foretold: exactly where it is state, from above where it is work."""

import contextlib
from dataclasses import replace

import pytest
import torch

from hallo_live_core.checkpoints.eight_bit import transformer_nbytes
from hallo_live_core.config import (
    FULL,
    HALLO_5B,
    LIGHT,
    AudioVAEConfig,
    BlockSizes,
    Profile,
    StreamSettings,
    TextEncoderConfig,
    VideoVAEConfig,
    VocoderConfig,
)
from hallo_live_core.decoding.audio import AudioStream
from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.engine.memory import (
    AUDIO_WORKSPACE,
    TEXT,
    TRANSFORMER,
    activation_nbytes,
    session_shape,
)
from hallo_live_core.engine.planning import planned_memory
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.request import plan_request
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.models.audio_vae.audio_decoder import AudioDecoder
from hallo_live_core.models.audio_vae.autoencoder import MMAudioVAE
from hallo_live_core.models.audio_vae.vocoder import BigVGAN
from hallo_live_core.models.dit import CachedPass, DualStreamDiT
from hallo_live_core.models.text_encoder.umt5 import build_network, num_parameters
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEW2_2, TAEW2_2_SUPER
from hallo_live_core.sampling.denoiser import open_session
from hallo_live_core.state.session import SessionShape
from hallo_live_core.types import Request, TextContext

from ..live_bytes import LiveBytes

META, GPU, OTHER = torch.device("meta"), torch.device("cuda", 0), torch.device("cuda", 1)
ONE_GPU = Placement(GPU, GPU, GPU)
SCHEDULE = NoiseSchedule()
CARD_24, CARD_32 = 24 * 2**30, 32 * 2**30
ROOM = 1.9
"""Estimates may be too large by this much, not more: a budget that refuses what works is wrong."""


def need(budget, words: str) -> int:
    (found,) = [n.nbytes for n in budget.needs if words in n.name]
    return found


# ── Exact where it is exact ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile", [FULL, LIGHT])
def test_tiny_weights_caches_and_state_take_what_was_foretold(tiny_models, profile):
    cpu = Placement.on("cpu")
    engine = HalloLive.load(tiny_models, placement=cpu, profile=profile)
    request = Request("Hi", seconds=3, height=64, width=96)
    planned = planned_memory(request, cpu, profile=profile, models=tiny_models)
    assert planned == engine.memory(request)
    text = TextContext.shared(torch.zeros(1, 4, 64))
    shape = session_shape(request, engine.check(request), engine.settings)
    state = open_session(engine._transformer, text, shape, SCHEDULE, dtype=torch.float32)
    assert state.video_self.nbytes + state.video_cross.nbytes == need(planned, "caches")
    assert state.nbytes == need(planned, "caches") + need(planned, "session")
    assert engine._video_decoder.initial_state(1, 4, 6).nbytes == need(planned, "state of")
    held = (*engine._transformer.parameters(), *engine._transformer.buffers())
    assert sum(t.nbytes for t in held) == need(planned, f"weights of the {TRANSFORMER}")


@pytest.mark.parametrize("fp8_cache", [False, True])
def test_caches_of_the_published_size_take_what_was_foretold(fp8_cache):
    small = replace(HALLO_5B, num_layers=2)
    shape = SessionShape(ClipPlan(BlockSizes(), 5), 32, 62, fp8_cache=fp8_cache)
    model = DualStreamDiT(small, device=META, dtype=torch.bfloat16)
    text = TextContext.shared(torch.empty(1, 512, 4096, device=META))
    with LiveBytes() as live:
        state = open_session(model, text, shape, SCHEDULE, dtype=torch.bfloat16)
    caches = state.video_self.nbytes + state.video_cross.nbytes
    settings = StreamSettings(fp8_cache=fp8_cache)
    assert session_shape(Request(), plan_request(Request()), settings) == shape
    assert live.now >= caches > 0.9 * live.now


def test_published_weights_are_counted():
    budget = planned_memory(Request(), ONE_GPU)
    assert need(budget, f"weights of the {TRANSFORMER}") == 2 * 11_660_753_108
    assert need(budget, f"weights of the {TEXT}") == 11_361_820_672  # spec 05 §3


def test_parameters_of_the_text_encoder_are_counted_without_it():
    small = TextEncoderConfig(vocab_size=50, dim=16, attention_dim=24, ffn_dim=20, num_layers=3,
                              num_heads=2, num_buckets=8)  # fmt: skip
    network = build_network(small, device=META)
    assert sum(p.numel() for p in network.parameters()) == num_parameters(small)


def test_8_bits_take_one_byte_for_an_element_of_a_matrix_and_four_for_a_row():
    wide, narrow = (
        transformer_nbytes(HALLO_5B, torch.bfloat16, in_8_bits=on) for on in (False, True)
    )
    assert wide == 2 * 11_660_753_108
    assert wide - narrow == 10_947_133_440 - 4 * 2 * 30 * (11 * 3072 + 14_336)


# ── From above where it is an estimate ─────────────────────────────────────────────────────────


def one_kernel_attention(q, k, v, mask=None):
    return torch.empty_like(q)


@pytest.mark.parametrize(
    ("blocks", "height", "width"), [(1, 32, 62), (5, 32, 62), (34, 32, 62), (5, 16, 16)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_activations_are_estimated_from_above(blocks, height, width, dtype):
    small = replace(HALLO_5B, num_layers=2)
    model = DualStreamDiT(small, attention=one_kernel_attention, device=META, dtype=dtype)
    text = TextContext.shared(torch.empty(1, 512, 4096, device=META, dtype=dtype))
    shape = SessionShape(ClipPlan(BlockSizes(), blocks), height, width)
    state = open_session(model, text, shape, SCHEDULE, dtype=dtype)
    late = shape.plan.block(blocks - 1)
    video = torch.empty(1, 6, 48, height, width, device=META, dtype=dtype)
    audio = torch.empty(1, 30 * blocks, 20, device=META, dtype=dtype)
    how = CachedPass(state, late.first_video, ((937.5, 6),), ((0.0, late.first_audio), (937.5, 30)))
    with LiveBytes() as live:
        model(video, audio, how)
    estimate = activation_nbytes(small, shape, dtype)
    assert live.peak <= estimate <= ROOM * live.peak


@pytest.mark.parametrize("make", [
    lambda **at: WanVideoDecoder(VideoVAEConfig(), **at),
    lambda **at: TAEHV(TAEW2_2, **at),
    lambda **at: TAEHV(TAEW2_2_SUPER, **at),
])  # fmt: skip
@torch.inference_mode()
def test_the_workspace_of_video_decoders_is_estimated_from_above(make):
    decoder = make(device=META, dtype=torch.bfloat16)
    state = decoder.initial_state(1, 32, 62)
    assert state.nbytes == decoder.state_nbytes(1, 32, 62, torch.bfloat16)
    fixed = state.nbytes + state.convolutions.scratch.nbytes
    estimate = decoder.working_nbytes(1, 32, 62, torch.bfloat16) - fixed
    peaks = []
    for _ in range(2):
        latents = torch.empty(1, 1, 48, 32, 62, device=META, dtype=torch.bfloat16)
        with LiveBytes() as live:
            _, state = decoder.decode(latents, state)
        peaks.append(live.peak)
    assert max(peaks) <= estimate <= ROOM * max(peaks)


@torch.inference_mode()
def test_the_workspace_of_the_audio_decoder_is_estimated_from_above(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_a, **_k: contextlib.nullcontext())
    decoder = AudioDecoder(
        MMAudioVAE(AudioVAEConfig(), device=META), BigVGAN(VocoderConfig(), device=META)
    )
    stream, peaks = AudioStream(decoder), []
    for _ in range(10):  # beyond the 250 latents that it remembers
        with LiveBytes() as live:
            stream.push(torch.empty(1, 30, 20, device=META))
        peaks.append(live.peak)
    assert max(peaks) <= AUDIO_WORKSPACE <= ROOM * max(peaks)


# ── What the README promises ───────────────────────────────────────────────────────────────────


def test_the_light_profile_fits_a_card_of_24_gigabytes_with_five_to_spare():
    aside = replace(ONE_GPU, text_encoder=torch.device("cpu"))
    light = planned_memory(Request(), aside, profile=LIGHT, decoder="taehv")
    assert 5.0e9 < CARD_24 - light.total_on(GPU) < 6.5e9


def test_with_the_published_decoder_the_light_profile_fits_32_gigabytes():
    aside = replace(ONE_GPU, text_encoder=torch.device("cpu"))
    needed = planned_memory(Request(), aside, profile=LIGHT).total_on(GPU)
    assert needed < CARD_32 - 7e9


def test_every_need_stands_on_the_device_of_its_part():
    spread = Placement(GPU, OTHER, torch.device("cpu"))
    budget = planned_memory(Request(), spread)
    where = {n.name: n.device for n in budget.needs}
    assert budget.devices == (GPU, OTHER, torch.device("cpu"))
    assert where["caches of keys and values"] == GPU
    assert where["state of the video decoder"] == OTHER
    assert budget.total_on(GPU) + budget.total_on(OTHER) + budget.total_on(
        torch.device("cpu")
    ) == sum(n.nbytes for n in budget.needs)
    assert budget.run_on(torch.device("cpu")) == 0


def test_decoding_beside_the_passes_of_one_gpu_takes_a_workspace_for_each_of_two_streams():
    def workspace(on: Placement) -> int:
        return need(planned_memory(Request(), on), "workspace of the video decoder")

    beside = replace(ONE_GPU, beside=True)
    assert workspace(beside) == 2 * workspace(ONE_GPU)
    assert workspace(replace(beside, decoder=OTHER)) == workspace(ONE_GPU)


def test_a_shared_transformer_lives_on_every_device_and_its_work_is_divided():
    shared = replace(ONE_GPU, sharers=(OTHER,))
    plain = {n.name: n.nbytes for n in planned_memory(Request(), ONE_GPU).needs}
    second = [n for n in planned_memory(Request(), shared).needs if n.device == OTHER]
    for need in second:
        whole = plain[need.name]
        assert need.nbytes == whole if need.exact else 0.5 * whole < need.nbytes < 0.6 * whole
    assert len(second) == 4


def test_each_switch_saves_memory_of_its_own():
    plain = planned_memory(Request(), ONE_GPU).total_on(GPU)
    for profile, decoder in (
        (Profile(fp8_weights=True), "wan"),
        (Profile(fp8_cache=True), "wan"),
        (FULL, "taehv"),
    ):
        saved = plain - planned_memory(
            Request(), ONE_GPU, profile=profile, decoder=decoder
        ).total_on(GPU)
        assert saved > 3e9
