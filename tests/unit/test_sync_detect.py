import pytest
import torch

from hallo_live_core.rewards.base import Watch
from hallo_live_core.rewards.sync.detect import (
    MEAN_RGB,
    detect_faces,
    iou,
    make_priors,
    network_input,
    scaled_size,
    select_faces,
    suppress,
)
from hallo_live_core.rewards.sync.s3fd import S3FD, S3FDConfig

from .sync_stubs import PlantedDetector, level_sizes

TINY = S3FDConfig(vgg=(2,) * 15, extras=(2,) * 4)


def random_boxes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 100
    size = 5 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 60
    scores = torch.rand(count, generator=generator, dtype=torch.float64).sort(descending=True)
    return torch.cat([corner, corner + size], dim=1), scores.values


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("max_iou", [0.1, 0.3, 0.5])
def test_suppression_keeps_what_torchvision_keeps(seed, max_iou):
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores = random_boxes(150, seed)
    assert torch.equal(suppress(boxes, max_iou), ops.nms(boxes, scores, max_iou))


def test_suppression_can_stop_early():
    boxes, _ = random_boxes(150, seed=0)
    assert torch.equal(suppress(boxes, 0.3, limit=7), suppress(boxes, 0.3)[:7])
    assert suppress(boxes[:0], 0.3).tolist() == []


def test_the_overlap_of_two_squares_has_no_extra_pixel():
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2]])
    assert iou(boxes[0], boxes).tolist() == pytest.approx([1, 1 / 3, 0])


def test_only_sure_faces_are_kept_best_first():
    boxes = torch.tensor([[0.0, 0, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0.0, 0.5, 0.2, 0.9]])
    faces = select_faces(boxes, torch.tensor([0.89, 0.95, 0.99]), width=100, height=50)
    expected = [[0.0, 25, 20, 45, 0.99], [50, 25, 90, 45, 0.95]]
    assert torch.allclose(faces, torch.tensor(expected).double(), atol=1e-6)


def test_priors_stand_in_the_middle_of_their_cells():
    priors = make_priors([(2, 3), (1, 2)], height=8, width=12)
    assert len(priors) == 8
    assert priors[1].tolist() == pytest.approx([6 / 12, 2 / 8, 16 / 12, 16 / 8])
    assert priors[6].tolist() == pytest.approx([4 / 12, 4 / 8, 32 / 12, 32 / 8])


@pytest.mark.parametrize(
    ("frame", "small"),
    [((512, 992), (128, 248)), ((1080, 1920), (270, 480)), ((2160, 3840), (270, 480))],
)
def test_frames_shrink_to_a_quarter_and_4k_to_an_eighth(frame, small):
    assert scaled_size(*frame) == small


def test_the_network_sees_rgb_without_its_mean():
    frame = torch.tensor([200, 100, 50], dtype=torch.uint8).expand(1, 112, 112, 3)
    seen = network_input(frame)
    assert seen.shape == (1, 3, 28, 28)
    assert seen[0, :, 0, 0].tolist() == [200 - MEAN_RGB[0], 100 - MEAN_RGB[1], 50 - MEAN_RGB[2]]


@pytest.mark.parametrize("size", [(128, 248), (28, 28), (45, 80), (31, 50)])
def test_every_level_has_one_prior_per_cell(size):
    network = S3FD(TINY)
    regressions, logits, levels = network(torch.zeros(2, 3, *size))
    assert levels == level_sizes(*size)
    count = sum(rows * columns for rows, columns in levels)
    assert regressions.shape == (2, count, 4) and logits.shape == (2, count, 2)
    assert len(make_priors(levels, *size)) == count


def test_of_the_three_backgrounds_of_the_finest_level_the_largest_counts():
    network = S3FD(TINY)
    torch.nn.init.zeros_(network.conf[0].weight)
    network.conf[0].bias.data = torch.tensor([1.0, 5.0, 2.0, 3.0])
    _, logits, levels = network(torch.zeros(1, 3, 32, 32))
    assert logits[0, : levels[0][0] * levels[0][1]].unique(dim=0).tolist() == [[5.0, 3.0]]


@torch.no_grad()
def test_chunks_of_frames_find_what_single_frames_find(monkeypatch):
    torch.manual_seed(3)
    network = S3FD(TINY)
    network.conf[3].bias.data = torch.tensor([-4.0, 4.0])
    frames = torch.randint(0, 256, (5, 128, 160, 3), dtype=torch.uint8)
    together = detect_faces(network, frames, Watch("test"))
    alone = [detect_faces(network, frame[None], Watch("test"))[0] for frame in frames]
    assert sum(len(faces) for faces in together) > 0
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_planted_boxes_come_back_in_pixels_of_the_frame():
    planted = ((0.1, 0.2, 0.4, 0.7), (0.6, 0.3, 0.9, 0.8))
    frames = torch.zeros(3, 200, 400, 3, dtype=torch.uint8)
    found = detect_faces(PlantedDetector(*planted), frames, Watch("test"))
    for faces in found:
        corners = faces[faces[:, 0].argsort(), :4]
        expected = torch.tensor([[40.0, 40, 160, 140], [240, 60, 360, 160]]).double()
        assert torch.allclose(corners, expected, atol=1e-6)
