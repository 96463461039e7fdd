from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from hallo_live_core.checkpoints.tiny_judges import write_tiny_judges
from hallo_live_core.errors import CheckpointError, RequestError
from hallo_live_core.judging.first_block import first_block_faults
from hallo_live_core.judging.panel import JUDGES, load_judges, score_clip, verdict_of
from hallo_live_core.judging.pictures import thumbnail
from hallo_live_core.judging.ranking import Take, rank_takes
from hallo_live_core.judging.tables import score_table, take_table
from hallo_live_core.rewards.base import Clip, Component, Scale, Score

SCALE = Scale(good=5.0, doubtful=3.0, source="a book")


def score(judge: str, value: float | None, *reasons: str) -> Score:
    parts = () if value is None else (Component("number", value, value, SCALE),)
    return Score(judge, value, parts, reasons)


def take(**values: float | None) -> Take:
    return Take.of("clip", tuple(score(judge, value) for judge, value in values.items()))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_tiny_judges(tmp_path_factory.mktemp("judges"))


# -- choosing ---------------------------------------------------------------------------------


def test_the_highest_value_wins():
    ranking = rank_takes([take(sync=2.0), take(sync=6.0), take(sync=4.0)])
    assert (ranking.best, ranking.places) == (1, (3, 1, 2))


def test_judges_count_alike_whatever_the_size_of_their_numbers():
    """Sound is a hundred times larger, but two judges like the first take better."""
    takes = [
        take(sync=6.0, audio=100.0, video=1.0),
        take(sync=5.0, audio=200.0, video=0.9),
    ]
    assert rank_takes(takes).best == 0


def test_a_take_that_a_judge_could_not_tell_comes_after_those_it_could():
    assert rank_takes([take(sync=None, audio=20.0), take(sync=1.0, audio=10.0)]).best == 1


def test_a_take_that_was_given_up_comes_last():
    assert rank_takes([Take("given up"), take(sync=-3.0)]).places == (2, 1)


def test_of_equal_takes_the_earlier_one_wins():
    assert rank_takes([take(sync=1.0), take(sync=1.0)]).places == (1, 2)


def test_no_takes_are_refused():
    with pytest.raises(RequestError, match="no takes"):
        rank_takes([])


# -- telling ----------------------------------------------------------------------------------


def test_every_number_stands_beside_its_verdict_and_its_scale():
    table = score_table([score("sync", 6.0), score("audio", 4.0, "2 channels were averaged")])
    lines = table.splitlines()
    assert all(word in lines[0] for word in ("on its scale", "good from", "verdict"))
    assert lines[2].split() == ["number", "6.00", "6.00", "5.00", "3.00", "good"]
    assert lines[4].split()[-1] == "doubtful"
    assert "audio: 2 channels were averaged" in lines
    assert sum("a book" in line for line in lines) == 1


def test_what_could_not_be_judged_is_no_number():
    table = score_table([score("sync", None, "no face was found")])
    assert "not judged" in table and "sync: no face was found" in table and "0" not in table


def test_the_best_take_is_marked():
    table = take_table([take(sync=2.0), take(sync=6.0)]).splitlines()
    assert not table[1].startswith("*") and table[2].startswith("*")
    assert "bad" in table[1] and "good" in table[2]


def test_a_verdict_is_that_of_the_worst_component():
    parts = tuple(Component(str(v), v, v, SCALE) for v in (6.0, 4.0))
    assert verdict_of(Score("sync", 1.0, parts)) == "doubtful"
    assert verdict_of(Score("sync", None)) is None


# -- the first block --------------------------------------------------------------------------


def moving(count: int = 21) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 255, (count, 128, 128, 3), dtype=torch.uint8)


def tone(seconds: float = 0.7, level: float = 0.1) -> torch.Tensor:
    return level * torch.sin(torch.arange(int(16_000 * seconds)) * 0.1)


def test_a_first_block_that_moves_and_sounds_has_no_faults():
    assert first_block_faults(moving(), tone()) == ()


@pytest.mark.parametrize(
    ("frames", "samples", "word"),
    [
        (moving(), torch.zeros(9000), "silent"),
        (moving(), tone(level=1e4).clamp(-1, 1), "overdriven"),
        (moving(), torch.full((9000,), math.nan), "not numbers"),
        (torch.full((21, 64, 64, 3), 90, dtype=torch.uint8), tone(), "blank"),
        (moving(1).expand(21, -1, -1, -1), tone(), "still"),
    ],
)
def test_a_first_block_that_has_failed_says_how(frames, samples, word):
    (fault,) = first_block_faults(frames, samples)
    assert word in fault


def test_sound_that_the_decoder_still_holds_back_is_no_fault():
    assert first_block_faults(moving(), torch.zeros(0)) == ()


def test_a_first_block_without_a_face_is_found_where_lips_are_judged(files):
    judges = load_judges([files], ["sync"])
    assert first_block_faults(moving(), tone(), judges) == ()  # the tiny detector always sees one
    (blind,) = judges
    for parameter in blind.detector.parameters():
        parameter.requires_grad_(False).zero_()
    assert first_block_faults(moving(), tone(), judges) == ("no face in the first second",)
    small = moving()[:, :64, :64]
    assert first_block_faults(small, tone(), judges) == ()  # too small to search


# -- loading and asking -----------------------------------------------------------------------


def test_only_the_files_of_the_wanted_judges_are_needed(files, tmp_path):
    for name in ("sfd_face.pth", "syncnet_v2.model"):
        (tmp_path / name).symlink_to(files / name)
    (judge,) = load_judges([tmp_path], ["sync"])
    assert judge.name == "sync"


def test_a_second_folder_is_looked_into_as_well(files, tmp_path):
    assert len(load_judges([tmp_path / "nowhere", tmp_path, files], ["audio", "sync"])) == 2


def test_all_missing_files_are_named_with_size_and_origin(tmp_path):
    with pytest.raises(CheckpointError) as error:
        load_judges([tmp_path], JUDGES)
    message = str(error.value)
    for words in (
        "sfd_face.pth", "90 MB", "syncnet_v2.model", "55 MB", "model.safetensors", "415 MB",
        "model.pth", "5.0 GB", "tokenizer.json", "huggingface.co", str(tmp_path),
    ):  # fmt: skip
        assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(("names", "words"), [([], "No judge"), (["taste"], "taste")])
def test_judges_that_do_not_exist_are_refused(files, names, words):
    with pytest.raises(RequestError, match=words):
        load_judges([files], names)


def test_judges_answer_in_the_order_of_tables(files):
    judges = load_judges([files], ["video", "sync"])
    clip = Clip(moving(60), Fraction(25), tone(2.4)[None], prompt="a woman speaks")
    stages = []
    scores = score_clip(judges, clip, on_progress=lambda p: stages.append((p.judge, p.stage)))
    assert [s.judge for s in scores] == ["sync", "video"]
    assert all(s.value is not None for s in scores)
    assert {judge for judge, _ in stages} == {"sync", "video"}


def test_thumbnails_keep_the_shape_and_have_even_sides():
    assert thumbnail(torch.zeros(2160, 3840, 3, dtype=torch.uint8), 320).shape == (180, 320, 3)
    assert thumbnail(torch.zeros(64, 31, 3, dtype=torch.uint8), 320).shape == (64, 32, 3)
