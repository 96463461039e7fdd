"""Latents go in, pictures come out: in time, to the nearest value, without mixing streams."""

from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import pytest
import torch

from hallo_live_core.clock import MediaClock
from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.decoding.chunks import ChunkDecoder
from hallo_live_core.decoding.video import VideoStream, copy_to_host, to_uint8
from hallo_live_core.errors import ShapeError
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.taehv import TAEHV, TAEHVConfig
from hallo_live_core.types import LatentBlock, MediaChunk

HEIGHT, WIDTH = 2, 3


def make_wan():
    torch.manual_seed(1)
    return WanVideoDecoder(VideoVAEConfig(decoder_dim=4, num_res_blocks=1))


def make_taehv():
    torch.manual_seed(1)
    return TAEHV(TAEHVConfig(widths=(8, 6, 4, 4)))


def make_latents(num: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, num, 48, HEIGHT, WIDTH, generator=generator)


@pytest.mark.parametrize("make", [make_wan, make_taehv])
def test_blocks_become_the_frames_of_the_clip(make):
    decoder, latents = make(), make_latents(3)
    stream = VideoStream(decoder)
    frames = torch.cat([stream.push(latents[:, :2]), stream.push(latents[:, 2:])], dim=1)
    with torch.no_grad():
        video, _ = decoder.decode(latents, decoder.initial_state(1, HEIGHT, WIDTH))
    assert frames.shape == (1, 9, HEIGHT * 16, WIDTH * 16, 3)
    assert frames.dtype == torch.uint8
    assert (frames.int() - to_uint8(video).int()).abs().max() <= 1


def test_frames_come_latent_by_latent():
    counts = [frames.shape[1] for frames in VideoStream(make_taehv()).each(make_latents(3))]
    assert counts == [1, 4, 4]


def test_nothing_is_decoded_before_it_is_asked_for():
    stream, latents = VideoStream(make_taehv()), make_latents(3)
    frames = stream.each(latents)
    next(frames)
    frames.close()  # the caller stops after one latent; the stream can go on from there
    rest = stream.push(latents[:, 1:])
    assert torch.equal(rest, VideoStream(make_taehv()).push(latents)[:, 1:])


def test_two_streams_through_one_decoder_do_not_meet():
    decoder = make_taehv()
    clips = [make_latents(2, seed=seed) for seed in (5, 6)]
    alone = [VideoStream(decoder).push(clip) for clip in clips]
    streams, parts = [VideoStream(decoder), VideoStream(decoder)], ([], [])
    for latent in range(2):
        for stream, clip, frames in zip(streams, clips, parts, strict=True):
            frames.append(stream.push(clip[:, latent : latent + 1]))
    for expected, frames in zip(alone, parts, strict=True):
        assert torch.equal(torch.cat(frames, dim=1), expected)


def test_the_dtype_of_the_decoder_can_be_chosen():
    decoder = make_taehv().to(torch.bfloat16)
    stream = VideoStream(decoder, dtype=torch.bfloat16)
    stream.push(make_latents(1))
    assert stream.state is not None and stream.state.dtype == torch.bfloat16


def test_decoding_keeps_no_gradients():
    stream = VideoStream(make_taehv())
    stream.push(make_latents(1).requires_grad_())
    assert stream.state is not None
    assert not any(past.requires_grad for past in stream.state.convolutions.past)


def test_a_clip_cannot_change_its_size():
    stream = VideoStream(make_taehv())
    stream.push(make_latents(1))
    with pytest.raises(ShapeError, match="start a new stream"):
        stream.push(make_latents(1)[..., :2])


def test_latents_without_a_batch_are_refused():
    with pytest.raises(ShapeError, match="Video latents must be"):
        VideoStream(make_taehv()).push(make_latents(1)[0])


def test_colours_are_rounded_to_the_nearest_value():
    step = 2 / 255
    colours = torch.tensor([-1.0, -1 + 0.6 * step, -1 + 0.4 * step, 0.0, 1.0, 1.7, -3.0])
    video = colours.view(1, 1, 1, 1, -1).expand(1, 1, 3, 1, -1)
    frames = to_uint8(video)
    assert frames.shape == (1, 1, 1, 7, 3)
    assert frames[..., 0].flatten().tolist() == [0, 1, 0, 128, 255, 255, 0]


def test_frames_are_stored_row_by_row_with_colours_last():
    video = torch.rand(1, 2, 3, 4, 5) * 2 - 1
    frames = to_uint8(video)
    assert frames.is_contiguous()
    assert frames[0, 1, 2, 3, 1] == round((video[0, 1, 1, 2, 3].item() + 1) / 2 * 255)


def test_frames_on_the_cpu_are_there_at_once():
    frames = torch.zeros(1, 1, 2, 2, 3, dtype=torch.uint8)
    assert torch.equal(copy_to_host(frames).result(), frames)


class SlowCopy:
    """A copy that takes until somebody needs it."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor, self.waits = tensor, 0

    def result(self) -> torch.Tensor:
        self.waits += 1
        return self.tensor


def make_chunk(frames, samples) -> MediaChunk:
    return MediaChunk(0, frames, samples, 0, 0, Fraction(0), Fraction(0), False)


def test_a_chunk_waits_for_its_frames_only_when_they_are_read():
    frames, samples = SlowCopy(torch.zeros(1, 2, 2, 3)), SlowCopy(torch.ones(5))
    chunk = make_chunk(frames, samples)
    assert chunk.block == 0
    assert (frames.waits, samples.waits) == (0, 0)
    assert torch.equal(chunk.samples, samples.tensor)
    assert (frames.waits, samples.waits) == (0, 1)
    assert replace(chunk, block=3).frames is frames.tensor


def test_a_chunk_needs_frames_and_samples_and_keeps_them():
    with pytest.raises(TypeError, match="frames"):
        MediaChunk(block=0)
    chunk = make_chunk(torch.zeros(1), torch.zeros(1))
    with pytest.raises(FrozenInstanceError):
        chunk.frames = torch.ones(1)


class Recorder:
    """Stands in for the pictures and the sound of a clip and writes down who was asked first."""

    def __init__(self):
        self.events: list[str] = []

    def each(self, latents):
        for number in range(latents.shape[1]):
            self.events.append(f"picture {number}")
            yield torch.full((1, 4, 2, 2, 3), number, dtype=torch.uint8)

    def push(self, latents, *, ahead=None, last=False):
        self.events.append("sound")
        return torch.zeros(1, 7)


def test_the_first_latent_of_a_block_is_handed_out_before_the_second_is_begun():
    parts = Recorder()
    block = LatentBlock(
        index=1,
        first_video_latent=6,
        first_audio_latent=30,
        video=torch.zeros(1, 3, 48, 2, 3),
        audio=torch.zeros(1, 15, 20),
        audio_ahead=torch.zeros(1, 0, 20),
        is_last=False,
    )
    for chunk in ChunkDecoder(parts, parts, MediaClock()).decode(block):
        parts.events.append(f"frame {chunk.first_frame} and {len(chunk.samples)} samples")
    assert parts.events == [
        *("picture 0", "sound", "frame 0 and 7 samples"),
        *("picture 1", "frame 4 and 0 samples"),
        *("picture 2", "frame 8 and 0 samples"),
    ]
