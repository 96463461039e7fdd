"""What the engine promises, on the tiny models loaded from files in the published layouts."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from hallo_live_core import (
    Cancelled,
    CheckpointError,
    HalloLive,
    HalloLiveError,
    LatentBlock,
    MediaClock,
    Placement,
    PromptError,
    Request,
    RequestError,
)
from hallo_live_core.config import HALLO_5B, VideoVAEConfig
from hallo_live_core.models.dit import DualStreamDiT
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder

PROMPT = "A woman in a kitchen says, <S>Coffee first.<E> <AUDCAP>A warm voice.<ENDAUDCAP>"
REQUEST = Request(prompt=PROMPT, seconds=2, seed=3, height=32, width=64)
BESIDE = torch.device("cpu", 1)  # torch tells it apart from `cpu`: a second device for the engine


@pytest.fixture(scope="module")
def engine(tiny_models) -> HalloLive:
    return HalloLive.load(tiny_models, placement=Placement.on("cpu"))


@pytest.fixture(scope="module")
def two_devices(tiny_models) -> HalloLive:
    return HalloLive.load(tiny_models, placement=Placement.on("cpu", decoder=BESIDE))


@pytest.fixture(scope="module")
def beside(tiny_models) -> HalloLive:
    return HalloLive.load(tiny_models, placement=replace(Placement.on("cpu"), beside=True))


@pytest.fixture(scope="module")
def split(tiny_models) -> HalloLive:
    on = Placement.on("cpu", decoder=BESIDE).shared_with([torch.device("cpu", 2)])
    return HalloLive.load(tiny_models, placement=on)


def clip(engine: HalloLive, request: Request = REQUEST, **options):
    chunks = list(engine.stream(request, **options))
    return torch.cat([c.frames for c in chunks]), torch.cat([c.samples for c in chunks])


def latents(engine: HalloLive, request: Request = REQUEST):
    blocks: list[LatentBlock] = []
    list(engine.stream(request, on_block=blocks.append))
    return torch.cat([b.video for b in blocks], 1), torch.cat([b.audio for b in blocks], 1)


def decoder_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("hallo-live")]


@pytest.mark.parametrize(("seconds", "frames"), [(1, 21), (2, 45), (4.875, 117), (5, 117)])
def test_picture_and_sound_of_a_clip_are_equally_long(engine, seconds, frames):
    pictures, samples = clip(engine, replace(REQUEST, seconds=seconds))
    assert pictures.shape == (frames, 32, 64, 3)
    assert pictures.dtype == torch.uint8
    assert samples.shape == (MediaClock().samples_for_frames(frames),)
    assert samples.abs().max() <= 1
    assert samples.std() > 0.01


def test_chunks_come_one_per_latent_on_one_clock(engine):
    chunks = list(engine.stream(REQUEST))
    assert [len(c.frames) for c in chunks] == [1] + [4] * 11
    assert [c.block for c in chunks] == [0] * 6 + [1] * 6
    for earlier, later in pairwise(chunks):
        assert later.first_frame == earlier.first_frame + len(earlier.frames)
        assert later.frame_time - earlier.frame_time == MediaClock().frame_time(len(earlier.frames))
        assert later.first_sample == earlier.first_sample + len(earlier.samples)
    assert [c.is_last for c in chunks] == [False] * 11 + [True]


def test_the_first_picture_is_handed_out_before_the_second_block_is_begun(engine):
    passes = []
    chunks = engine.stream(REQUEST, on_progress=lambda p: passes.append((p.stage, p.block)))
    first = next(chunks)
    assert len(first.frames) == 1 and len(first.samples) > 0
    assert passes == [("denoise", 0)] * 4
    chunks.close()


def test_a_seed_gives_the_same_clip_and_another_seed_another(engine):
    pictures, samples = clip(engine)
    again = clip(engine)
    other = clip(engine, replace(REQUEST, seed=4))
    assert torch.equal(pictures, again[0]) and torch.equal(samples, again[1])
    assert not torch.equal(pictures, other[0])


def test_a_longer_clip_begins_like_the_shorter_one(engine):
    short, _ = clip(engine, replace(REQUEST, seconds=1))
    longer, _ = clip(engine)
    assert torch.equal(longer[: len(short)], short)


@pytest.mark.parametrize("change", [{"lookahead": 10}, {"correlated_noise": True}])
def test_look_ahead_and_the_kind_of_noise_change_the_clip(engine, change):
    pictures, _ = clip(engine)
    changed, _ = clip(engine, replace(REQUEST, **change))
    assert changed.shape == pictures.shape
    assert not torch.equal(changed, pictures)


def test_sampling_and_decoding_in_two_steps_equals_streaming(engine):
    blocks = list(engine.sample(REQUEST))
    chunks = list(engine.decode(blocks))
    pictures, samples = clip(engine)
    assert torch.equal(torch.cat([c.frames for c in chunks]), pictures)
    assert torch.equal(torch.cat([c.samples for c in chunks]), samples)


def test_blocks_are_handed_to_whoever_wants_the_latents(engine):
    seen: list[LatentBlock] = []
    clip(engine, on_block=seen.append)
    expected = list(engine.sample(REQUEST))
    assert [b.index for b in seen] == [0, 1]
    assert all(torch.equal(a.video, b.video) for a, b in zip(seen, expected, strict=True))
    assert seen[0].video.shape == (1, 6, 48, 2, 4)
    assert seen[0].audio.shape == (1, 30, 20)


@pytest.mark.parametrize("which", ["two_devices", "beside"])
def test_decoding_beside_gives_the_same_clip_and_leaves_no_thread(engine, which, request):
    pictures, samples = clip(engine)
    names = set()
    chunks = []
    for chunk in request.getfixturevalue(which).stream(REQUEST):
        names.update(decoder_threads())
        chunks.append(chunk)
    assert names == {"hallo-live-decoder"}
    assert not decoder_threads()
    assert torch.equal(torch.cat([c.frames for c in chunks]), pictures)
    assert torch.equal(torch.cat([c.samples for c in chunks]), samples)


@pytest.mark.parametrize("lookahead", [0, 4])
def test_a_transformer_on_two_devices_makes_the_same_latents(engine, split, lookahead):
    request = replace(REQUEST, lookahead=lookahead)
    for shared, alone in zip(latents(split, request), latents(engine, request), strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4)  # float32, 9 passes
    assert not decoder_threads()


@pytest.mark.parametrize("which", ["engine", "two_devices", "split"])
def test_progress_counts_every_pass_and_latent_up_to_the_total(which, request):
    engine = request.getfixturevalue(which)
    seen = []
    clip(engine, on_progress=seen.append)
    passes, latents = 2 * 5 - 1, 2 * 6
    assert [p.done for p in seen] == list(range(1, passes + latents + 1))
    assert {p.total for p in seen} == {passes + latents}
    assert sum(p.stage == "decode" for p in seen) == latents


@pytest.mark.parametrize("which", ["engine", "two_devices", "split"])
def test_a_run_stops_within_a_step_of_being_asked(which, request):
    engine = request.getfixturevalue(which)
    done = []
    chunks = engine.stream(REQUEST, on_progress=done.append, should_stop=lambda: len(done) >= 12)
    with pytest.raises(Cancelled):
        list(chunks)
    assert len(done) == 12
    assert not decoder_threads()


@pytest.mark.parametrize("which", ["engine", "two_devices", "split"])
def test_finishing_early_gives_a_complete_shorter_clip(which, request):
    engine = request.getfixturevalue(which)
    long = replace(REQUEST, seconds=4, lookahead=5)
    blocks: list[LatentBlock] = []
    chunks = list(
        engine.stream(long, on_block=blocks.append, should_finish=lambda: len(blocks) == 1)
    )
    assert [b.is_last for b in blocks] == [False, True]
    assert [c.is_last for c in chunks] == [False] * 11 + [True]
    pictures = torch.cat([c.frames for c in chunks])
    samples = torch.cat([c.samples for c in chunks])
    assert len(pictures) == 45
    assert len(samples) == MediaClock().samples_for_frames(45)
    assert samples[-2000:].std() > 0.01  # no sound is held back for a block that never comes
    assert torch.equal(pictures, clip(engine, long)[0][:45])
    assert not decoder_threads()


def test_a_clip_that_nobody_finishes_early_is_the_whole_clip(engine):
    pictures, samples = clip(engine, should_finish=lambda: False)
    expected = clip(engine)
    assert torch.equal(pictures, expected[0]) and torch.equal(samples, expected[1])


def test_decoders_beside_work_in_one_thread_clip_after_clip(two_devices, monkeypatch):
    """Where cuDNN keeps its plans; ComfyUI has another engine for every run."""
    other = HalloLive(
        transformer=two_devices._transformer,
        video_decoder=two_devices._video_decoder,
        audio_decoder=two_devices._audio_decoder,
        text_encoder=two_devices._text_encoder,
        placement=two_devices.placement,
        decoding=two_devices._decoding,
    )
    decoder, threads = two_devices._video_decoder, set()
    decode = decoder.decode

    def watched(*arguments):
        threads.add(threading.get_ident())
        return decode(*arguments)

    monkeypatch.setattr(decoder, "decode", watched)
    short = replace(REQUEST, seconds=1)
    assert torch.equal(clip(two_devices, short)[0], clip(other, short)[0])
    assert len(threads) == 1 and threads != {threading.get_ident()}


def test_a_stream_that_was_left_open_does_not_hold_up_the_next(two_devices):
    left = two_devices.stream(REQUEST)
    first = next(left)
    assert torch.equal(clip(two_devices)[0][:1], first.frames)
    left.close()
    assert not decoder_threads()


@pytest.mark.parametrize("which", ["engine", "two_devices", "split"])
def test_an_exception_of_the_caller_passes_through_unchanged(which, request):
    engine = request.getfixturevalue(which)

    class HostInterruption(BaseException):
        pass

    def interrupt(progress):
        if progress.done == 7:
            raise HostInterruption

    with pytest.raises(HostInterruption):
        list(engine.stream(REQUEST, on_progress=interrupt))
    assert not decoder_threads()


def test_an_error_in_the_decoder_thread_reaches_the_caller(two_devices, monkeypatch):
    def broken(*_):
        raise MemoryError("no room for pictures")

    monkeypatch.setattr(two_devices._audio_decoder, "middle", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(two_devices.stream(REQUEST))
    assert not decoder_threads()


def test_an_error_on_one_of_two_devices_reaches_the_caller(split, monkeypatch):
    def broken(*_):
        raise MemoryError("no room for the second rank")

    monkeypatch.setattr(split._transformer.models[1], "forward", broken)
    with pytest.raises(MemoryError, match="second rank"):
        list(split.stream(REQUEST))
    assert not decoder_threads()


def test_a_caller_who_goes_away_leaves_nothing_running(two_devices):
    chunks = two_devices.stream(REQUEST)
    next(chunks)
    chunks.close()
    assert not decoder_threads()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"seconds": -1}, RequestError, "length above zero"),
        ({"seconds": float("nan")}, RequestError, "length above zero"),
        ({"seconds": 35}, RequestError, "at most 34 seconds"),
        ({"seconds": 34, "lookahead": 10}, RequestError, "at most 33 seconds"),
        ({"height": 100}, RequestError, "height must be a multiple of 32.*Fix: use 96"),
        ({"width": 0}, RequestError, "width must be a multiple of 32"),
        ({"lookahead": -1}, RequestError, "look-ahead"),
        ({"seed": -1}, RequestError, "seed"),
        ({"prompt": "  "}, PromptError, "empty"),
        ({"prompt": "He says <S>hello."}, PromptError, "<S>"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_runs(engine, change, error, words):
    passes = []
    with pytest.raises(error, match=words) as caught:
        next(engine.stream(replace(REQUEST, **change), on_progress=passes.append))
    assert not passes
    assert "\n" not in str(caught.value)


def test_an_engine_without_a_part_says_which(engine):
    half = HalloLive(transformer=engine._transformer, placement=engine.placement)
    text = engine.encode(PROMPT)
    assert next(half.sample(REQUEST, text=text)).index == 0
    with pytest.raises(HalloLiveError, match="no video decoder"):
        next(half.stream(REQUEST, text=text))


def test_a_folder_without_the_files_names_all_that_are_missing(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        HalloLive.load(tmp_path, placement=Placement.on("cpu"))
    for name in ("hallolive_dit.pt", "Wan2.2_VAE.pth", "v1-16.pth", "best_netG.pt"):
        assert name in str(caught.value)


def test_the_light_decoder_takes_the_place_of_the_big_one(tiny_models, engine):
    light = HalloLive.load(tiny_models, placement=Placement.on("cpu"), decoder="taehv")
    pictures, samples = clip(light)
    expected, sound = clip(engine)
    assert pictures.shape == expected.shape and not torch.equal(pictures, expected)
    assert torch.equal(samples, sound)


def test_the_memory_of_a_full_size_run_is_what_the_specification_adds_up():
    meta = torch.device("meta")
    engine = HalloLive(
        transformer=DualStreamDiT(HALLO_5B, device=meta),
        placement=Placement(meta, meta, meta),
    )
    request = Request(prompt=PROMPT)
    caches = 30 * 2 * 2 * 30 * 496 * 3072 * 2  # layers, caches, K and V, tokens, width, bytes
    text = 2 * 30 * 2 * 512 * 3072 * 2
    needed = engine.memory(request).run_on(meta)
    assert caches + text < needed < 1.1 * (caches + text)
    decoder = HalloLive(
        video_decoder=WanVideoDecoder(VideoVAEConfig(), device=meta),
        placement=Placement(meta, meta, meta),
    )
    # 1.7 GiB of state, 0.7 GiB of scratch, 1.6 GB and a third
    assert 4.1e9 < decoder.memory(request).run_on(meta) < 4.8e9
