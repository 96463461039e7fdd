from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from hallo_live_core.errors import Cancelled, RequestError, ShapeError
from hallo_live_core.rewards.sync.judge import SyncJudge

from .sync_stubs import GreyHearing, PlantedDetector, talking_head

FACE = (0.0, 0.05, 0.7, 0.95)
FRAME = 1 / 25


def judge(*boxes, **options) -> SyncJudge:
    return SyncJudge(PlantedDetector(*(boxes or (FACE,))), GreyHearing(), **options)


@pytest.mark.parametrize("frames", [-6, -1, 0, 4, 9])
def test_sound_that_is_late_by_so_many_frames_gives_minus_that_offset(frames):
    score = judge().score(talking_head(late=frames * FRAME))
    assert score.details.offset == -frames
    assert score.value > 0.5


def test_the_curve_has_its_minimum_at_the_offset():
    curve = judge().score(talking_head(late=3 * FRAME)).details.faces[0].curve
    best = curve.distances.index(min(curve.distances))
    assert curve.offsets[best] == curve.offset == -3
    assert (curve.offsets[0], curve.offsets[-1], len(curve.offsets)) == (15, -15, 31)


@pytest.mark.parametrize("fps", [15, 24, 30, 60])
def test_other_frame_rates_keep_the_timing(fps):
    clip = talking_head(fps=Fraction(fps), late=5 * FRAME)
    assert abs(judge().score(clip).details.offset + 5) <= 1


@pytest.mark.parametrize(("fps", "said"), [(15, True), (60, True), (24, False), (25, False)])
def test_unusual_frame_rates_are_said(fps, said):
    reasons = judge().score(talking_head(fps=Fraction(fps))).reasons
    assert any("re-timed" in reason for reason in reasons) == said


def test_stereo_of_another_rate_scores_like_mono_and_is_said():
    plain = judge().score(talking_head())
    other = judge().score(talking_head(rate=44_100, channels=2))
    assert abs(other.value - plain.value) < 0.02
    assert other.details.offset == plain.details.offset == 0
    assert other.reasons == (
        "2 channels were averaged",
        "sound was resampled from 44100 to 16000 Hz",
    )


def test_a_face_is_reported_where_it_was_planted():
    score = judge(FACE).score(talking_head(size=(256, 512)))
    (face,) = score.details.faces
    expected = torch.tensor([0.0, 0.05 * 256, 0.7 * 512, 0.95 * 256], dtype=torch.float64)
    assert torch.allclose(face.boxes, expected.expand(75, 4), atol=1e-6)
    assert face.first_frame == 0


def test_frames_of_4k_are_searched_smaller_and_boxes_stay_true():
    clip = talking_head(seconds=2.2, fps=Fraction(12), size=(2160, 3840))
    score = judge((0.25, 0.25, 0.5, 0.75)).score(clip)
    assert torch.allclose(score.details.faces[0].boxes[0, 0], torch.tensor(960.0).double())
    assert "faces were searched at 480x270, frames are 3840x2160" in score.reasons


def several_faces() -> tuple[SyncJudge, SyncJudge]:
    boxes = ((0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0))
    return judge(*boxes), judge(*boxes, faces="best")


def half_silent_head():
    """The left half of the picture speaks, the right half stays still."""
    clip = talking_head(size=(256, 512))
    frames = clip.frames.clone()
    frames[:, :, 256:] = 90
    return replace(clip, frames=frames)


def test_with_several_faces_the_mean_is_pulled_down_by_a_listener_and_the_best_is_not():
    clip = half_silent_head()
    mean, best = (j.score(clip) for j in several_faces())
    one, two = (face.curve.confidence for face in best.details.faces)
    assert mean.value == pytest.approx((one + two) / 2)
    assert best.value == max(one, two) > 2 * min(one, two)
    assert mean.reasons[0] == "2 faces were found; the score is the mean of all"
    assert best.reasons[0] == "2 faces were found; the score is the best"


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        (talking_head(seconds=2.0), "too short: 2.00 s, needed 2.04 s"),
        (talking_head(seconds=FRAME), "too short: 0.04 s, needed 2.04 s"),
        (replace(talking_head(), samples=None), "the clip has no sound"),
        (replace(talking_head(), samples=torch.zeros(2, 48_000)), "the sound is silent"),
        (talking_head(size=(64, 96)), "frames of 96x64 are too small: a face needs 100 pixels"),
    ],
    ids=["two seconds", "one frame", "no sound", "silent", "tiny frames"],
)
def test_what_cannot_be_judged_gets_a_reason_instead_of_a_number(clip, why):
    score = judge().score(clip)
    assert score.value is None and score.components == ()
    assert score.reasons[0] == why


def test_no_face_is_neutral_and_the_reference_zero_can_be_chosen():
    nobody = SyncJudge(PlantedDetector(), GreyHearing())
    score = nobody.score(talking_head())
    assert score.value is None
    assert score.reasons[0].startswith("no face was found")
    assert (
        SyncJudge(PlantedDetector(), GreyHearing(), missing="zero").score(talking_head()).value == 0
    )


def test_a_face_of_100_pixels_is_too_small():
    score = judge((0.1, 0.1, 0.1 + 90 / 512, 0.1 + 90 / 256)).score(talking_head(size=(256, 512)))
    assert score.reasons[0] == "the face is too small: 90 px, needed more than 100"


def test_sound_that_ends_early_is_a_reason():
    clip = talking_head()
    score = judge().score(replace(clip, samples=clip.samples[:, :10_000]))
    assert score.reasons[0] == "sound covers too little of the face: needed 0.84 s"


def test_values_that_are_no_numbers_are_refused_before_any_work():
    clip = talking_head()
    broken = clip.samples.clone()
    broken[0, 5] = torch.nan
    with pytest.raises(ShapeError, match="1 NaN or infinite samples"):
        SyncJudge(None, None).score(replace(clip, samples=broken))


def test_components_carry_verdicts_and_their_source():
    score = judge().score(talking_head(late=2 * FRAME))
    assert score.component("confidence").raw == score.value
    offset = score.component("offset")
    assert (offset.raw, offset.verdict) == (-2, "doubtful")
    assert "BT.1359" in offset.scale.source
    assert score.component("distance").verdict is None


def test_progress_covers_both_stages_and_a_stop_comes_through():
    seen = []
    judge().score(talking_head(), on_progress=seen.append)
    assert [p.stage for p in seen if p.done == p.total] == ["find faces", "read lips"]
    with pytest.raises(Cancelled):
        judge().score(talking_head(), should_stop=lambda: True)


def test_unknown_options_are_refused():
    with pytest.raises(RequestError, match="use mean or best"):
        judge(faces="worst")
