"""The video decoder: streaming equals decoding the whole clip, and disturbs nobody."""

import pytest
import torch

from hallo_live_core.config import VideoVAEConfig
from hallo_live_core.errors import ShapeError
from hallo_live_core.models.video_vae.decoder import WanVideoDecoder
from hallo_live_core.models.video_vae.layers import use_channels_last

TINY = VideoVAEConfig(encoder_dim=4, decoder_dim=4, num_res_blocks=1)
HEIGHT, WIDTH = 2, 3


def make_decoder(config=TINY, dtype=torch.float32) -> WanVideoDecoder:
    torch.manual_seed(1)
    return WanVideoDecoder(config, dtype=dtype).requires_grad_(False)


def make_latents(num: int, batch: int = 1, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num, 48, HEIGHT, WIDTH, generator=generator)


def start(decoder, batch=1, **kwargs):
    return decoder.initial_state(batch, HEIGHT, WIDTH, **kwargs)


def test_the_first_latent_is_one_frame_and_every_other_four():
    video, _ = make_decoder().decode(make_latents(3, batch=2), start(make_decoder(), batch=2))
    assert video.shape == (2, 9, 3, HEIGHT * 16, WIDTH * 16)
    assert video.dtype == torch.float32
    assert video.abs().max() <= 1


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (2, 2), (3, 1), (1, 3)])
def test_a_clip_cut_anywhere_gives_the_same_bits_as_the_whole(cuts):
    decoder, latents = make_decoder(), make_latents(4)
    whole, _ = decoder.decode(latents, start(decoder))
    state, parts = start(decoder), []
    for part in latents.split(cuts, dim=1):
        video, state = decoder.decode(part, state)
        parts.append(video)
    assert torch.equal(torch.cat(parts, dim=1), whole)


@pytest.mark.parametrize("at_once", [2, 3, 9])
def test_several_latents_at_once_give_the_same_video(at_once):
    decoder, latents = make_decoder(dtype=torch.float64), make_latents(5).double()
    whole, _ = decoder.decode(latents, start(decoder))
    together, _ = decoder.decode(latents, start(decoder), latents_at_once=at_once)
    torch.testing.assert_close(together, whole, rtol=0, atol=1e-12)


def test_later_latents_do_not_change_earlier_frames():
    decoder, latents = make_decoder(), make_latents(3)
    other = latents.clone()
    other[:, 2] += 1
    first, second = (decoder.decode(z, start(decoder))[0] for z in (latents, other))
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.equal(first[:, 5:], second[:, 5:])


def test_the_past_reaches_into_the_present():
    decoder, latents = make_decoder(), make_latents(2)
    _, state = decoder.decode(latents[:, :1], start(decoder))
    after_first, _ = decoder.decode(latents[:, 1:], state)
    alone = start(decoder)
    alone = alone.advanced()
    from_nothing, _ = decoder.decode(latents[:, 1:], alone)
    assert not torch.allclose(after_first, from_nothing)


def test_two_streams_through_one_decoder_do_not_meet():
    decoder = make_decoder()
    clips = [make_latents(3, seed=seed) for seed in (5, 6)]
    alone = [decoder.decode(clip, start(decoder))[0] for clip in clips]
    states, videos = [start(decoder), start(decoder)], ([], [])
    for latent in range(3):
        for number, clip in enumerate(clips):
            video, states[number] = decoder.decode(clip[:, latent : latent + 1], states[number])
            videos[number].append(video)
    for expected, parts in zip(alone, videos, strict=True):
        assert torch.equal(torch.cat(parts, dim=1), expected)


def test_a_cloned_state_lets_a_stream_take_two_ways():
    decoder, latents = make_decoder(), make_latents(3)
    _, state = decoder.decode(latents[:, :2], start(decoder))
    fork = state.clone()
    once, _ = decoder.decode(latents[:, 2:], state)
    again, _ = decoder.decode(latents[:, 2:], fork)
    assert torch.equal(once, again)


def test_the_first_latent_leaves_no_trace_in_the_history_of_temporal_up_sampling():
    decoder = make_decoder()
    _, state = decoder.decode(make_latents(1), start(decoder))
    past = state.convolutions.past
    time_convs = [1 + 4 + 4, 1 + 4 + 4 + 1 + 4]  # after the four pasts of each level's two blocks
    for number, frames in enumerate(past):
        assert frames.any() == (number not in time_convs), number


def test_layouts_give_the_same_video():
    decoder, latents = make_decoder(dtype=torch.float64), make_latents(3).double()
    expected, _ = decoder.decode(latents, start(decoder))
    use_channels_last(decoder)
    state = start(decoder)
    assert all(
        p.is_contiguous(memory_format=torch.channels_last_3d) for p in state.convolutions.past
    )
    actual, _ = decoder.decode(latents, state)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_the_channels_last_layout_survives_every_step():
    decoder, layouts = make_decoder(), {4: torch.channels_last, 5: torch.channels_last_3d}
    use_channels_last(decoder)
    lost: list[str] = []

    def look(name):
        def hook(_module, inputs):
            (x,) = inputs
            if not x.is_contiguous(memory_format=layouts[x.ndim]):
                lost.append(name)

        return hook

    for name, module in decoder.decoder.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
            module.register_forward_pre_hook(look(name))
    # Two clips, since torch's CPU convolutions forget the layout of a single tiny one.
    decoder.decode(make_latents(2, batch=2), start(decoder, batch=2))
    assert not lost


@pytest.mark.parametrize(
    "config",
    [
        VideoVAEConfig(decoder_dim=6, multipliers=(1, 2, 4), temporal_downsample=(True, True)),
        VideoVAEConfig(decoder_dim=2, multipliers=(1, 2, 2, 4), num_res_blocks=1),
        VideoVAEConfig(decoder_dim=4, multipliers=(1, 2), temporal_downsample=(True,)),
    ],
)
def test_other_sizes_stream_as_well(config):
    decoder, latents = make_decoder(config), make_latents(3)
    whole, _ = decoder.decode(latents, start(decoder))
    state, parts = start(decoder), []
    for part in latents.split(1, dim=1):
        video, state = decoder.decode(part, state)
        parts.append(video)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert whole.shape[1] == 1 + 2 * 2 ** sum(config.temporal_downsample)


def test_the_state_decides_the_dtype_and_bf16_stays_close():
    decoder, latents = make_decoder(), make_latents(3)
    expected, _ = decoder.decode(latents, start(decoder))
    decoder = decoder.to(torch.bfloat16)
    state = start(decoder)
    assert {p.dtype for p in state.convolutions.past} == {torch.bfloat16}
    actual, _ = decoder.decode(latents, state)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() / expected.norm() < 0.03  # 30 dB; spec 03 §7 saw 38


def test_the_size_of_a_state_is_known_before_it_is_made():
    decoder = make_decoder(dtype=torch.bfloat16)
    state = start(decoder, batch=2)
    assert state.nbytes == decoder.state_nbytes(2, HEIGHT, WIDTH, torch.bfloat16)


@pytest.mark.slow
def test_the_decoder_compiles_without_graph_breaks():
    decoder, latents = make_decoder(), make_latents(3)
    expected, _ = decoder.decode(latents, start(decoder))
    compiled = torch.compile(decoder.decode, fullgraph=True, backend="eager", dynamic=False)
    state, parts = start(decoder), []
    for part in latents.split(1, dim=1):
        video, state = compiled(part, state)
        parts.append(video)
    assert torch.equal(torch.cat(parts, dim=1), expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 48, 3, HEIGHT, WIDTH), "48.*swap axes 1 and 2"),
        ((48, 1, HEIGHT, WIDTH), r"Found: \(48, 1, 2, 3\)"),
        ((1, 0, 48, HEIGHT, WIDTH), "must be"),
        ((1, 1, 48, HEIGHT + 1, WIDTH), "start a new stream"),
        ((2, 1, 48, HEIGHT, WIDTH), "start a new stream"),
    ],
)
def test_latents_of_another_shape_are_refused(shape, message):
    decoder = make_decoder()
    with pytest.raises(ShapeError, match=message):
        decoder.decode(torch.zeros(shape), start(decoder))
