"""What a call is refused for, in one helpful line."""

import pytest
import torch

from hallo_live_core.config import BlockSizes
from hallo_live_core.errors import PositionError, RequestError, ShapeError
from hallo_live_core.models.dit import CachedPass, MaskedPass, TeacherPass
from hallo_live_core.types import TextContext

from .dit_models import BLOCKS, normal, tiny_dit, tiny_latents, tiny_stream, tiny_text

T = torch.tensor([700.0])


def teach(video=None, audio=None, text=None, t=T, **options):
    given_video, given_audio = tiny_latents(1)
    video = given_video if video is None else video
    audio = given_audio if audio is None else audio
    tiny_dit()(video, audio, TeacherPass(text or tiny_text(), t, **options))


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ({"video": normal(1, 2, 5, 4, 6)}, "3 channels"),
        ({"video": normal(2, 3, 4, 6)}, r"\[b, f, c, h, w\]"),
        ({"video": normal(1, 2, 3, 5, 6)}, "patches"),
        ({"audio": normal(1, 8, 3)}, "4 channels"),
        ({"audio": normal(1, 8, 1, 4)}, r"\[b, a, c\]"),
        ({"audio": normal(2, 8, 4)}, "batch"),
        ({"audio": normal(1, 8, 4).double()}, "one dtype"),
        ({"audio": normal(1, 8, 4).to("meta")}, "devices"),
    ],
)
def test_latents_that_do_not_fit_are_refused(latents, message):
    with pytest.raises(ShapeError, match=message):
        teach(**latents)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TextContext.shared(normal(1, 3, 7)), "6"),
        (TextContext.shared(normal(1, 6, 6)), "up to 5 tokens"),
        (TextContext.shared(normal(2, 3, 6)), "batch"),
        (TextContext.shared(normal(1, 3, 6).to("meta")), "devices"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(text, message):
    with pytest.raises(ShapeError, match=message):
        teach(text=text)


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_does_not_exist_cannot_be_skipped(layer):
    with pytest.raises(ShapeError, match="0 to 1"):
        teach(skip_layer=layer)


def test_timesteps_must_match_the_batch_or_the_latents():
    with pytest.raises(ShapeError, match="Timesteps"):
        teach(t=torch.tensor([1.0, 2.0]))
    video, audio = tiny_latents(1)
    how = MaskedPass(tiny_text(), torch.zeros(1, 3), torch.zeros(1, 4), BLOCKS)
    with pytest.raises(ShapeError, match="Timesteps"):
        tiny_dit()(video, audio, how)


def test_runs_of_timesteps_must_cover_the_latents():
    model = tiny_dit()
    denoiser, _ = tiny_stream(model)
    video, audio = tiny_latents(1)
    with pytest.raises(ShapeError, match="3 latents, 4 latents"):
        model(video, audio, CachedPass(denoiser.state, 0, ((0.0, 2),), ((0.0, 3),)))


@pytest.mark.parametrize("sizes", [BlockSizes(4, 4), BlockSizes(0, 0), BlockSizes(2, 4, -1)])
def test_streams_of_different_numbers_of_blocks_are_refused(sizes):
    video, audio = tiny_latents(2)
    how = MaskedPass(tiny_text(), torch.zeros(1, 4), torch.zeros(1, 8), sizes)
    with pytest.raises(RequestError, match=r"blocks|look-ahead"):
        tiny_dit()(video, audio, how)


def test_a_block_beyond_the_session_is_refused():
    model = tiny_dit()
    denoiser, _ = tiny_stream(model, blocks=2)
    video, audio = tiny_latents(1)
    with pytest.raises(PositionError):
        model(video, audio, CachedPass(denoiser.state, 4, ((0.0, 2),), ((0.0, 4),)))
    longer = normal(1, 9, 4)
    with pytest.raises(PositionError):
        model(video, longer, CachedPass(denoiser.state, 2, ((0.0, 2),), ((0.0, 9),)))


def test_latents_of_another_size_than_the_session_are_refused():
    model = tiny_dit()
    denoiser, _ = tiny_stream(model, blocks=2)
    audio = tiny_latents(1)[1]
    how = CachedPass(denoiser.state, 0, ((0.0, 2),), ((0.0, 4),))
    with pytest.raises(ShapeError, match="session"):
        model(normal(1, 2, 3, 4, 8), audio, how)
