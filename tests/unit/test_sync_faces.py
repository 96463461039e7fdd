"""Tracks and crops."""

import pytest
import torch
from torch.nn import functional

from hallo_live_core.rewards.sync.crop import (
    GREY,
    CropBox,
    crop_boxes,
    crop_faces,
    crop_path,
    cut,
    median_filter,
)
from hallo_live_core.rewards.sync.resize import resize
from hallo_live_core.rewards.sync.tracking import Detection, link, overlap


def face(x: float, y: float = 0.0, size: float = 120.0) -> list[float]:
    return [x, y, x + size, y + size, 0.99]


def at(frames: dict[int, list[list[float]]], count: int) -> list[torch.Tensor]:
    return [torch.tensor(frames.get(n, []), dtype=torch.float64).view(-1, 5) for n in range(count)]


def test_a_face_that_drifts_is_one_track():
    (track,) = link(at({n: [face(2.0 * n)] for n in range(60)}, 60))
    assert (track.first_frame, track.last_frame) == (0, 59)
    assert track.is_long_enough and track.is_large_enough


def test_a_face_that_jumps_is_two():
    tracks = link(at({n: [face(0.0 if n < 30 else 300.0)] for n in range(60)}, 60))
    assert [(t.first_frame, t.last_frame) for t in tracks] == [(0, 29), (30, 59)]


@pytest.mark.parametrize(("gap", "tracks"), [(25, 1), (26, 2)])
def test_a_face_may_be_gone_for_25_frames(gap, tracks):
    assert len(link(at({0: [face(0)], gap: [face(10)]}, 60))) == tracks


def test_gaps_are_filled_on_a_straight_line():
    (track,) = link(at({0: [face(0)], 4: [face(32)]}, 5))
    assert track.boxes[:, 0].tolist() == pytest.approx([0, 8, 16, 24, 32])
    assert len(track.detections) == 2


def test_two_faces_do_not_mix():
    tracks = link(at({n: [face(0), face(500)] for n in range(55)}, 55))
    assert sorted(t.boxes[0, 0].item() for t in tracks) == [0, 500]
    assert all(len(t.detections) == 55 for t in tracks)


@pytest.mark.parametrize(("length", "enough"), [(50, False), (51, True)])
def test_51_detections_are_enough(length, enough):
    (track,) = link(at({n: [face(0)] for n in range(length)}, 60))
    assert track.is_long_enough == enough


@pytest.mark.parametrize(("size", "enough"), [(100.0, False), (100.1, True)])
def test_a_face_must_be_larger_than_100_pixels(size, enough):
    (track,) = link(at({n: [face(0, size=size)] for n in range(51)}, 51))
    assert track.is_large_enough == enough


def test_boxes_that_only_touch_do_not_overlap():
    assert overlap(Detection(0, 0, 0, 2, 2), Detection(1, 2, 0, 4, 2)) == 0
    assert overlap(Detection(0, 0, 0, 2, 2), Detection(1, 1, 0, 3, 2)) == pytest.approx(1 / 3)


def test_the_median_treats_what_lies_outside_as_zero():
    series = torch.arange(10.0, 40.0)
    filtered = median_filter(series)
    assert filtered[0] == series[:7].min()
    assert torch.equal(filtered[6:-6], series[6:-6])


def test_the_crop_has_the_face_above_its_middle():
    (box,) = crop_boxes(crop_path(torch.tensor([[100.0, 100, 200, 200]]).repeat(13, 1)))[6:7]
    assert box == CropBox(pad=90, top=190, bottom=330, left=170, right=310)


def test_what_lies_beyond_the_frame_is_grey():
    frame = torch.zeros(10, 12, 3, dtype=torch.uint8)
    cropped = cut(frame, CropBox(pad=4, top=0, bottom=8, left=12, right=20))
    assert cropped.shape == (8, 8, 3)
    assert cropped[:4].unique().tolist() == [GREY] == cropped[:, 4:].unique().tolist()
    assert cropped[4:, :4].unique().tolist() == [0]


def test_a_crop_ends_where_the_padding_ends():
    frame = torch.zeros(10, 10, 3, dtype=torch.uint8)
    assert cut(frame, CropBox(pad=2, top=5, bottom=15, left=0, right=14)).shape == (9, 14, 3)


def test_a_box_outside_of_the_frame_gives_a_grey_crop():
    frame = torch.zeros(20, 20, 3, dtype=torch.uint8)
    for far in (500.0, -500.0):
        path = crop_path(torch.tensor([[far, far, far + 50, far + 50]]).repeat(13, 1))
        crops = crop_faces([frame], crop_boxes(path)[6:7])
        assert crops.unique().tolist() == [GREY]


@pytest.mark.parametrize("size", [(10, 14), (37, 20), (64, 64), (1, 1)])
def test_resizing_equals_that_of_torch(size):
    frames = torch.randint(0, 256, (2, 37, 53, 3), dtype=torch.uint8)
    expected = functional.interpolate(
        frames.permute(0, 3, 1, 2).double(), size=size, mode="bilinear", align_corners=False
    )
    error = resize(frames, *size).double() - expected.permute(0, 2, 3, 1)
    assert error.abs().max() <= 0.5 + 1e-3


def test_a_crop_of_224_pixels_is_not_resampled():
    frame = torch.randint(0, 256, (224, 224, 3), dtype=torch.uint8)
    box = CropBox(pad=0, top=0, bottom=224, left=0, right=224)
    assert torch.equal(crop_faces([frame], [box])[0], frame)
