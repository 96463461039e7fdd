from dataclasses import replace

import pytest
import torch

from hallo_live_core.config import HALLO_5B, BlockSizes
from hallo_live_core.errors import PositionError, ShapeError
from hallo_live_core.functional.blocks import ClipPlan
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.sampling.denoiser import open_session
from hallo_live_core.state.session import (
    SessionShape,
    TextCache,
    TimeRows,
    TimeTable,
    session_nbytes,
)

from .dit_models import BLOCKS, TINY, normal, tiny_dit, tiny_text

SCHEDULE = NoiseSchedule()


def shape(blocks=3, height=4, width=6, batch=1, lookahead=0):
    sizes = replace(BLOCKS, lookahead=lookahead)
    return SessionShape(ClipPlan(sizes, blocks), height, width, batch=batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("given", [shape(), shape(batch=2, lookahead=3)])
def test_the_bytes_foretold_are_the_bytes_held(dtype, given):
    text = tiny_text(given.batch)
    state = open_session(tiny_dit(dtype=dtype), text, given, SCHEDULE, dtype=dtype)
    assert state.nbytes == session_nbytes(TINY, given, dtype)


def test_the_published_model_needs_eleven_gigabytes_of_cache():
    plan = ClipPlan(BlockSizes(), 5)
    total = session_nbytes(HALLO_5B, SessionShape(plan, 32, 62), torch.bfloat16)
    assert 11.0e9 < total < 11.8e9


def test_a_session_lives_where_the_prompt_lives():
    text = tiny_text()
    state = open_session(tiny_dit(), text, shape(), SCHEDULE, dtype=torch.float32)
    assert state.video_self.layer(0).extend(0, *[normal(1, 1, 2, 12)] * 2)[0].device.type == "cpu"
    assert isinstance(state.text, TextCache)
    assert len(state.text.video_keys) == TINY.num_layers


@pytest.mark.parametrize(("height", "width"), [(3, 6), (4, 5), (0, 6)])
def test_latents_that_cannot_be_cut_into_patches_are_refused(height, width):
    with pytest.raises(ShapeError, match="patches"):
        open_session(
            tiny_dit(),
            tiny_text(),
            shape(height=height, width=width),
            SCHEDULE,
            dtype=torch.float32,
        )


def test_a_prompt_for_another_batch_is_refused():
    with pytest.raises(ShapeError, match="batch"):
        open_session(tiny_dit(), tiny_text(2), shape(), SCHEDULE, dtype=torch.float32)


def test_a_clip_longer_than_the_rotary_tables_is_refused():
    model = tiny_dit(replace(TINY, rope_rows=12))
    open_session(model, tiny_text(), shape(3), SCHEDULE, dtype=torch.float32)
    with pytest.raises(PositionError, match="shorter"):
        open_session(model, tiny_text(), shape(3, lookahead=1), SCHEDULE, dtype=torch.float32)


def time_table():
    rows = TimeRows(normal(1, 2, 3), normal(1, 2, 6, 3))
    return TimeTable((0.0, 1000.0), rows)


def test_one_timestep_for_the_whole_picture_is_one_row():
    rows = time_table().compact(((1000.0, 30),))
    assert torch.equal(rows.embedding, time_table().rows.embedding[:, 1:])
    assert rows.projection.shape == (1, 1, 6, 3)


@pytest.mark.parametrize("kind", ["spread", "compact"])
def test_history_and_window_get_a_row_per_latent(kind):
    table = time_table()
    rows = getattr(table, kind)(((0.0, 2), (1000.0, 1)))
    assert torch.equal(rows.embedding, table.rows.embedding[:, [0, 0, 1]])
    assert torch.equal(rows.projection, table.rows.projection[:, [0, 0, 1]])


def test_an_empty_run_counts_for_nothing():
    assert time_table().spread(((0.0, 0), (1000.0, 3))).embedding.shape == (1, 3, 3)


def test_a_timestep_that_was_not_announced_is_refused():
    with pytest.raises(ShapeError, match="announced"):
        time_table().spread(((500.0, 3),))
    with pytest.raises(ShapeError, match="announced"):
        time_table().compact(((500.0, 3),))
