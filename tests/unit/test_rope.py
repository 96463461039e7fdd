from itertools import product

import pytest
import torch

from hallo_live_core.errors import PositionError
from hallo_live_core.functional.rope import (
    audio_angles,
    axis_widths,
    cos_sin,
    rotary_angles,
    rotary_tables,
    rotate,
    video_table,
)

from .dit_models import CPU, TINY, normal


def tables(frames=3, audio=10, dtype=torch.float32):
    return rotary_tables(TINY, grid=(frames, 2, 3), audio_latents=audio, device=CPU, dtype=dtype)


def test_a_head_of_128_is_split_into_44_42_42():
    assert axis_widths(128) == (44, 42, 42)


def test_the_first_pair_turns_by_its_position():
    quarter = torch.tensor([[1.0, 0.0]], dtype=torch.float64).reshape(1, 1, 1, 2)
    turned = rotate(quarter, cos_sin(torch.tensor([[torch.pi / 2]], dtype=torch.float64)))
    torch.testing.assert_close(turned.flatten().tolist(), [0.0, 1.0])


def test_attention_between_two_frames_depends_on_their_distance_only():
    q, k = normal(1, 1, 1, 12, seed=1), normal(1, 1, 1, 12, seed=2)
    table = video_table((9, 1, 1), 12, device=CPU, dtype=torch.float64)

    def score(i, j):
        return (rotate(q, table[i : i + 1]) * rotate(k, table[j : j + 1])).sum()

    torch.testing.assert_close(score(1, 3).double(), score(6, 8).double())


def test_five_audio_latents_stand_where_one_video_latent_stands():
    sound = cos_sin(audio_angles(11, 12, 0.2))
    picture = video_table((3, 1, 1), 12, device=CPU, dtype=torch.float64)
    time_pairs = axis_widths(12)[0] // 2
    torch.testing.assert_close(sound[5, :time_pairs], picture[1, :time_pairs])
    torch.testing.assert_close(sound[10, :time_pairs], picture[2, :time_pairs])


def test_only_the_time_part_of_sound_turns():
    x = normal(1, 8, 1, 12)
    turned = rotate(x, cos_sin(audio_angles(8, 12, 0.2)))
    still = axis_widths(12)[0]
    assert torch.equal(turned[..., still:], x[..., still:])
    assert not torch.allclose(turned[:, 1:, :, :still], x[:, 1:, :, :still])


def test_a_later_block_uses_later_rows_of_the_same_table():
    assert torch.equal(tables(frames=4).video_rows(2, 2), tables(frames=4).video[12:24])
    assert torch.equal(tables(frames=2).video, tables(frames=4).video[:12])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_holds_cosine_and_sine_of_every_tokens_angles(dtype):
    found = tables(frames=4, dtype=dtype).video
    axes = zip((4, 2, 3), axis_widths(TINY.video.head_dim), strict=True)
    frames, rows, columns = (rotary_angles(count, width) for count, width in axes)
    where = product(range(4), range(2), range(3))
    angles = [torch.cat([frames[f], rows[r], columns[c]]) for f, r, c in where]
    assert torch.equal(found, cos_sin(torch.stack(angles)).to(dtype))


def test_half_precision_is_rotated_in_float32_and_float64_stays():
    rows = tables().audio_rows(4)
    assert rotate(normal(1, 4, 1, 12).bfloat16(), rows).dtype == torch.float32
    wide = tables(dtype=torch.float64)
    assert wide.video.dtype == torch.float64
    assert rotate(normal(1, 4, 1, 12).double(), rows).dtype == torch.float64


def test_half_precision_streams_have_float32_tables():
    assert tables(dtype=torch.bfloat16).video.dtype == torch.float32


@pytest.mark.parametrize("size", [{"frames": 1025}, {"audio": 1025}])
def test_positions_beyond_the_network_are_refused(size):
    with pytest.raises(PositionError, match="stay within 1024"):
        tables(**size)


def test_positions_beyond_the_session_are_refused():
    with pytest.raises(PositionError, match="audio latent"):
        tables(audio=10).audio_rows(11)
    with pytest.raises(PositionError, match="video token"):
        tables(frames=3).video_rows(2, 2)


def test_the_session_counts_the_bytes_of_its_tables():
    assert tables().nbytes == (3 * 6 + 10) * 12 * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_compiler_gets_the_same_rotation_without_complex_numbers(dtype):
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    table = cos_sin(audio_angles(5, 8, 0.2))
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(rotate, backend=keep, fullgraph=True)(x, table)
    assert compiled.dtype == rotate(x, table).dtype
    torch.testing.assert_close(compiled, rotate(x, table), rtol=1e-6, atol=1e-6)
    assert not any("complex" in str(node.target) for node in graphs[0].graph.nodes)
