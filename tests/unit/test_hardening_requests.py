"""Any numbers at all make a plan, or are refused in one line before anything runs."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hallo_live_core.errors import RequestError
from hallo_live_core.functional.request import plan_request
from hallo_live_core.types import Request

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)

number = st.one_of(
    st.integers(-(10**6), 10**6),
    st.integers(),
    st.floats(),
    st.fractions(),
    st.sampled_from([-1, 0, 1, 5, 32, 512, 992, 2**63, 2**64, 10**400, -(10**5000), True]),
)
SIDES = ("height", "width")
FINE = {"seconds": 5.0, "seed": 0, "lookahead": 0, "height": 512, "width": 992}
likely = {
    "seconds": st.one_of(st.floats(0.1, 40), number),
    "seed": st.one_of(st.integers(0, 9), number),
    "lookahead": st.one_of(st.integers(0, 40), number),
    "height": st.one_of(st.sampled_from([32, 512, 2048]), number),
    "width": st.one_of(st.sampled_from([32, 992, 2048]), number),
}


@quick
@given(st.fixed_dictionaries(likely), st.integers(1, 4096))
@example(FINE | {"seconds": math.nan}, 1024)
@example(FINE | {"lookahead": 10**9}, 1024)
@example(FINE | {"seconds": 10**400}, 1024)
def test_any_numbers_make_a_plan_or_are_refused_in_one_line(fields, rows):
    plan, refusal = None, ""
    try:
        plan = plan_request(Request(**fields), rope_rows=rows)
    except RequestError as error:
        refusal = str(error)
    if plan is None:
        assert refusal and "\n" not in refusal and len(refusal) < 400
        return
    assert 1 <= plan.num_blocks == math.ceil(fields["seconds"])
    assert max(plan.audio_horizon, plan.video_latents) <= rows
    assert all(fields[side] % 32 == 0 and 32 <= fields[side] <= 32 * rows for side in SIDES)
    assert 0 <= fields["seed"] < 2**64


@pytest.mark.parametrize("name", [*SIDES, "seed", "lookahead"])
@pytest.mark.parametrize("value", [64.0, math.nan, "64", None])
def test_what_counts_something_must_be_a_whole_number(name, value):
    with pytest.raises(RequestError, match=f"The {name} must be a whole number"):
        plan_request(Request(**{name: value}))


@pytest.mark.parametrize("name", SIDES)
def test_a_picture_beyond_the_rotary_tables_is_refused_by_its_side(name):
    assert plan_request(Request(**{name: 32 * 1024}), rope_rows=1024)
    with pytest.raises(RequestError, match=f"The {name} is larger than .* use at most 32768"):
        plan_request(Request(**{name: 32 * 1025}), rope_rows=1024)
