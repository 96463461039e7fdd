"""The past of causal convolutions: a value, handed out in order, written in place."""

import pytest
import torch

from hallo_live_core.errors import ShapeError
from hallo_live_core.state.causal_conv import CausalState, PastFrames


def filled(frames: int, value: float) -> torch.Tensor:
    return torch.full((1, 1, frames, 1, 1), value)


def values(window: torch.Tensor) -> list[float]:
    return window.flatten().tolist()


def test_a_clip_begins_with_a_past_of_zeros():
    past = PastFrames(CausalState.zeros([(1, 1, 2, 1, 1)]))
    assert values(past.extend(filled(1, 5.0))) == [0, 0, 5]


def test_the_last_frames_of_a_window_begin_the_next():
    state = CausalState.zeros([(1, 1, 2, 1, 1)])
    PastFrames(state).extend(torch.arange(1.0, 4.0).view(1, 1, 3, 1, 1))
    assert values(PastFrames(state).extend(filled(1, 9.0))) == [2, 3, 9]
    assert values(PastFrames(state).extend(filled(1, 7.0))) == [3, 9, 7]


def test_each_convolution_gets_its_own_past():
    state = CausalState.zeros([(1, 1, 2, 1, 1), (1, 1, 1, 1, 1)])
    for _ in range(2):
        past = PastFrames(state)
        past.extend(filled(1, 1.0))
        last = past.extend(filled(1, 2.0))
    assert values(last) == [2, 2]


def test_a_skipped_past_stays_zero_and_a_remembered_one_is_kept():
    state = CausalState.zeros([(1, 1, 2, 1, 1), (1, 1, 1, 1, 1)])
    past = PastFrames(state)
    past.skip()
    past.remember(filled(1, 4.0))
    assert [values(p) for p in state.past] == [[0, 0], [4]]


def test_what_becomes_of_the_input_is_written_in_the_dtype_of_the_state():
    state = CausalState.zeros([(1, 1, 2, 1, 1)], dtype=torch.bfloat16)
    past = PastFrames(state)
    window = past.extend(filled(1, 3.0), lambda x, out: out.copy_(x * 2))
    assert window.dtype == torch.bfloat16
    assert values(window) == [0, 0, 6]


def test_the_buffers_of_a_state_never_move():
    state = CausalState.zeros([(1, 1, 2, 1, 1)])
    address = state.past[0].data_ptr()
    PastFrames(state).extend(filled(4, 1.0))
    assert state.advanced().past[0].data_ptr() == address


def test_a_clone_is_not_touched_by_the_stream_it_came_from():
    state = CausalState.zeros([(1, 1, 2, 1, 1)])
    copy = state.clone()
    PastFrames(state).extend(filled(2, 1.0))
    assert values(copy.past[0]) == [0, 0]
    assert values(state.past[0]) == [1, 1]


def test_windows_have_the_layout_of_the_state():
    layout = torch.channels_last_3d
    state = CausalState.zeros([(1, 4, 2, 3, 3)], memory_format=layout)
    window = PastFrames(state).extend(torch.ones(1, 4, 1, 3, 3))
    assert window.is_contiguous(memory_format=layout)
    assert state.past[0].is_contiguous(memory_format=layout)


def test_a_state_tells_its_size():
    state = CausalState.zeros([(1, 3, 2, 4, 5)], dtype=torch.bfloat16)
    assert state.nbytes == 3 * 2 * 4 * 5 * 2


@pytest.mark.parametrize("shape", [(2, 1, 1, 1, 1), (1, 2, 1, 1, 1), (1, 1, 1, 2, 1)])
def test_an_input_of_another_shape_is_refused_with_both_shapes(shape):
    past = PastFrames(CausalState.zeros([(1, 1, 2, 1, 1)]))
    with pytest.raises(ShapeError, match=r"\(1, 1, 2, 1, 1\).*start a new stream"):
        past.extend(torch.zeros(shape))
