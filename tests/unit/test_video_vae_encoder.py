"""The video encoder: one frame, then four at a time; nothing is lost silently."""

import logging

import pytest
import torch

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.errors import ShapeError
from hallo_live_core.models.video_vae.encoder import WanVideoEncoder
from hallo_live_core.models.video_vae.latents import SPATIAL_COMPRESSION, LatentScale
from hallo_live_core.models.video_vae.layers import use_channels_last

TINY = VideoVAEConfig(encoder_dim=4, decoder_dim=4, num_res_blocks=1)


def make_encoder(dtype=torch.float64) -> WanVideoEncoder:
    torch.manual_seed(1)
    return WanVideoEncoder(TINY, dtype=dtype).requires_grad_(False)


def make_video(frames: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(batch, frames, 3, 32, 48, generator=generator, dtype=torch.float64) * 2 - 1


def test_a_picture_becomes_one_latent():
    encoded = make_encoder().encode(make_video(1, batch=2))
    assert encoded.raw.shape == encoded.normalised.shape == (2, 1, 48, 2, 3)


def test_four_more_frames_become_one_more_latent():
    assert make_encoder().encode(make_video(9)).raw.shape[1] == 3


def test_latents_come_raw_and_normalised():
    encoded = make_encoder().encode(make_video(5))
    scale = LatentScale.on(torch.device("cpu"), torch.float64)
    torch.testing.assert_close(scale.restore(encoded.normalised), encoded.raw)


def test_frames_that_make_no_latent_are_left_out_with_a_warning(caplog):
    video = make_video(8)
    with caplog.at_level(logging.WARNING):
        encoded = make_encoder().encode(video)
    assert "8 frames: the last 3" in caplog.text
    caplog.clear()
    assert torch.equal(encoded.raw, make_encoder().encode(video[:, :5]).raw)
    assert not caplog.text


def test_several_latents_at_once_equal_one_after_the_other():
    encoder, video = make_encoder(), make_video(13)
    expected = encoder.encode(video).raw
    first, state = encoder.encode_next(video[:, :1], encoder.initial_state(1, 32, 48))
    rest, _ = encoder.encode_next(video[:, 1:], state)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), expected, rtol=0, atol=1e-12)


def test_the_very_first_frame_is_the_history_of_temporal_down_sampling():
    encoder = make_encoder()
    _, state = encoder.encode_next(make_video(1), encoder.initial_state(1, 32, 48))
    assert all(frames.any() for frames in state.convolutions.past)


def test_later_frames_do_not_change_earlier_latents():
    encoder, video = make_encoder(), make_video(9)
    other = video.clone()
    other[:, 5:] *= -1
    first, second = encoder.encode(video).raw, encoder.encode(other).raw
    assert torch.equal(first[:, :2], second[:, :2])
    assert not torch.equal(first[:, 2:], second[:, 2:])


def test_layouts_give_the_same_latents():
    encoder, video = make_encoder(), make_video(5)
    expected = encoder.encode(video).raw
    use_channels_last(encoder)
    torch.testing.assert_close(encoder.encode(video).raw, expected, rtol=0, atol=1e-12)


def test_a_picture_that_does_not_divide_into_latents_is_refused():
    with pytest.raises(ShapeError, match=r"multiples of 16\. Found: 40 x 48\. Fix: .* 32"):
        make_encoder().encode(torch.zeros(1, 1, 3, 40, 48))


@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (1, 3, 1, 32, 32), (1, 0, 3, 32, 32)])
def test_video_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match="Video must be RGB"):
        make_encoder().encode(torch.zeros(shape))


def test_a_stream_of_frames_begins_with_one_and_goes_on_with_fours():
    encoder = make_encoder()
    state = encoder.initial_state(1, 32, 48)
    with pytest.raises(ShapeError, match="5 frames first"):
        encoder.encode_next(make_video(5), state)
    with pytest.raises(ShapeError, match="3 frames later"):
        encoder.encode_next(make_video(3), state.advanced())


def test_the_spatial_compression_is_that_of_the_published_network():
    encoder = WanVideoEncoder(VideoVAEConfig(), device=torch.device("meta"))
    assert encoder.pixels_per_latent == SPATIAL_COMPRESSION


def test_encoding_takes_at_least_its_state():
    """570 MiB of state at 512 x 992 in 16 bits (spec 03 §5), and activations."""
    encoder = WanVideoEncoder(VideoVAEConfig(), device=torch.device("meta"))
    state = encoder.initial_state(1, 512, 992, dtype=torch.bfloat16)
    needed = encoder.working_nbytes(1, 512, 992, torch.bfloat16)
    assert 565 * 2**20 < state.nbytes < 575 * 2**20
    assert state.nbytes < needed < 4 * state.nbytes
