"""The judge of sound, on a tiny untrained network."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from hallo_live_core.checkpoints.rewards_hf import audio_judge_from_file, load_audio_judge
from hallo_live_core.checkpoints.tiny_judges_hf import SOUND, write_tiny_audio_judge
from hallo_live_core.errors import Cancelled, CheckpointError, HalloLiveError, ShapeError
from hallo_live_core.rewards.audiobox import weights
from hallo_live_core.rewards.audiobox.judge import PUBLISHED_TARGETS
from hallo_live_core.rewards.audiobox.network import AestheticHeads, AudioBox, HeadConfig
from hallo_live_core.rewards.audiobox.windows import WINDOW, split, valid_frames
from hallo_live_core.rewards.base import Clip

RATE = 16_000
AXES = ("CE", "CU", "PC", "PQ")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio_judge")
    write_tiny_audio_judge(folder, torch.Generator().manual_seed(0))
    return folder


@pytest.fixture(scope="module")
def judge(models):
    return load_audio_judge(models)


def voice(seconds: float, seed: int = 0, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(channels, round(seconds * RATE), generator=generator)


def clip_with(samples: torch.Tensor | None, rate: int = RATE) -> Clip:
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    return Clip(frames, Fraction(24), samples, rate)


def raw(score) -> list[float]:
    return [part.raw for part in score.components]


def test_windows_of_ten_seconds_and_a_padded_rest():
    windows, valid = split(torch.ones(WINDOW + 5))
    assert windows.shape == (2, WINDOW)
    assert valid.tolist() == [WINDOW, 5]
    assert windows[1].sum() == 5


def test_sound_of_exactly_one_window_gives_one():
    windows, valid = split(torch.ones(WINDOW))
    assert len(windows) == 1 and valid.tolist() == [WINDOW]


@pytest.mark.parametrize(
    ("samples", "frames"), [(76_800, 240), (1, 1), (320, 1), (321, 2), (80_640, 252), (WINDOW, 499)]
)
def test_a_frame_counts_when_one_of_its_320_samples_is_real(samples, frames):
    assert valid_frames(torch.tensor([samples]), num_frames=499).tolist() == [frames]


def test_padding_changes_the_score_of_nothing_but_what_is_padded(judge):
    windows, valid = split(voice(4.8)[0])
    alone = judge.network(windows, valid)
    with_neighbour = judge.network(*split(torch.cat([voice(10, seed=1)[0], voice(4.8)[0]])))
    torch.testing.assert_close(with_neighbour[1:], alone, rtol=0, atol=1e-5)


def test_the_reward_is_enjoyment_usefulness_and_quality(judge):
    score = judge.score(clip_with(voice(2)))
    values = dict(zip(AXES, raw(score), strict=True))
    assert score.judge == "audio"
    assert score.value == pytest.approx(values["CE"] + values["CU"] + values["PQ"])
    assert score.reasons == ()


def test_complexity_is_shown_without_a_verdict(judge):
    score = judge.score(clip_with(voice(2)))
    assert score.component("PC").verdict is None
    assert score.component("PQ").verdict in ("good", "doubtful", "bad")


def test_normalised_values_are_deviations_from_the_mean_rating(judge):
    for part in judge.score(clip_with(voice(2))).components:
        target = PUBLISHED_TARGETS[part.name]
        assert part.raw == pytest.approx(part.normalised * target.std + target.mean)


def test_windows_count_by_how_full_they_are(judge):
    score = judge.score(clip_with(voice(12.5)))
    first, second = torch.tensor(score.details.window_scores, dtype=torch.float64)
    assert score.details.window_starts == (0.0, 10.0)
    assert raw(score) == pytest.approx(((first + 0.25 * second) / 1.25).tolist())


def test_clips_judged_together_get_the_scores_they_get_alone(judge):
    clips = [clip_with(voice(1, 1)), clip_with(None), clip_with(voice(11, 2))]
    together = judge.score_batch(clips)
    for clip, score in zip(clips, together, strict=True):
        alone = judge.score(clip)
        assert raw(score) == pytest.approx(raw(alone), abs=1e-4)
        assert score.reasons == alone.reasons


def test_without_sound_the_judge_says_so_and_gives_no_number(judge):
    for samples in (None, torch.zeros(1, 0)):
        score = judge.score(clip_with(samples))
        assert score.value is None and score.reasons == ("the clip has no sound",)


def test_silence_is_not_judged(judge):
    score = judge.score(clip_with(torch.zeros(2, RATE)))
    assert score.value is None and score.reasons == ("the sound is silent",)


def test_stereo_is_averaged_and_other_rates_are_resampled_and_both_are_said(judge):
    left = voice(1)
    stereo = torch.cat([2 * left, torch.zeros_like(left)])
    score = judge.score(clip_with(stereo))
    assert raw(score) == pytest.approx(raw(judge.score(clip_with(left))))
    assert score.reasons == ("2 channels were averaged",)
    slow = judge.score(clip_with(left, rate=8_000))
    assert "resampled from 8000 to 16000 Hz" in slow.reasons[0]


def test_sound_that_is_not_numbers_is_refused_before_the_network_runs(judge):
    with pytest.raises(ShapeError, match="NaN"):
        judge.score(clip_with(torch.full((1, RATE), float("nan"))))


def test_progress_counts_windows_and_a_stop_ends_the_work(judge):
    seen = []
    judge.score(clip_with(voice(45)), on_progress=seen.append)
    assert [(p.stage, p.done, p.total) for p in seen] == [("listen", i, 5) for i in range(6)]
    with pytest.raises(Cancelled):
        judge.score(clip_with(voice(1)), should_stop=lambda: True)


def test_autocast_of_the_caller_changes_nothing(judge):
    clip = clip_with(voice(1))
    with torch.autocast("cpu", torch.bfloat16):
        inside = judge.score(clip)
    assert inside == judge.score(clip)


def test_heads_weigh_layers_count_only_real_frames_and_ignore_loudness():
    config = HeadConfig(dim=4, num_states=2, axes=("CE",), widths=(1,))
    heads = AestheticHeads(config)
    heads.load_state_dict(
        {
            "layer_weights.CE": torch.tensor([0.0, 50.0]),  # all weight on the second layer
            "proj_layer.CE.0.weight": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            "proj_layer.CE.0.bias": torch.zeros(1),
        }
    )
    layers = torch.zeros(2, 1, 3, 4)
    layers[0] = 7.0
    layers[1, 0, 0] = torch.tensor([3.0, 4.0, 0.0, 0.0])
    layers[1, 0, 2] = 100.0  # a padded frame
    valid = torch.tensor([[True, True, False]])
    with torch.no_grad():
        assert heads(layers, valid).item() == pytest.approx(0.6)


def test_checkpoint_pt_with_its_constants_gives_the_same_judge(models, judge, tmp_path):
    flat = weights.to_published(judge.network.state_dict())
    targets = {axis: {"mean": 1.0, "std": 2.0} for axis in AXES}
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in flat.items()},
        "model_cfg": {"nth_layer": 3},
        "target_transform": targets,
    }
    torch.save(content, tmp_path / "checkpoint.pt")
    other = audio_judge_from_file(tmp_path / "checkpoint.pt")
    clip = clip_with(voice(1))
    ours, theirs = judge.score(clip), other.score(clip)
    assert raw(theirs) == pytest.approx([p.normalised * 2 + 1 for p in ours.components])


def test_config_json_beside_a_safetensors_file_brings_its_constants(models, tmp_path):
    source = models / "audiobox-aesthetics" / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(source.read_bytes())
    targets = {axis: {"mean": 5.0, "std": 1.5} for axis in AXES}
    (tmp_path / "config.json").write_text(json.dumps({"target_transform": targets}))
    judge = audio_judge_from_file(tmp_path / "model.safetensors")
    assert {t.mean for t in judge.targets.values()} == {5.0}
    (tmp_path / "config.json").write_text(json.dumps({"target_transform": {"CE": 3}}))
    with pytest.raises(CheckpointError, match="cannot be understood"):
        audio_judge_from_file(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be understood"):
        audio_judge_from_file(tmp_path / "model.safetensors")


def test_a_missing_file_is_named_with_its_size_and_origin(tmp_path):
    with pytest.raises(CheckpointError, match=r"audiobox-aesthetics/model.* [MG]B\)") as caught:
        load_audio_judge(tmp_path)
    assert "https://huggingface.co/facebook/audiobox-aesthetics" in str(caught.value)


def test_a_file_with_a_tensor_too_many_or_too_few_is_refused(judge, tmp_path):
    flat = weights.to_published(judge.network.state_dict())
    path = tmp_path / "audiobox_aesthetics.pt"
    torch.save(flat | {"wavlm_model.encoder.surprise": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="surprise"):
        load_audio_judge(tmp_path)
    flat.pop("wavlm_model.encoder.layer_norm.bias")
    torch.save(flat, path)
    with pytest.raises(CheckpointError, match=r"missing: wavlm\.encoder\.layer_norm\.bias"):
        load_audio_judge(tmp_path)


def test_another_model_is_called_by_its_name(tmp_path):
    path = tmp_path / "audiobox_aesthetics.pt"
    torch.save({"netcnnlip.0.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="seems to be SyncNet"):
        load_audio_judge(tmp_path)


def test_names_survive_the_way_to_the_module_and_back(judge):
    ours = judge.network.state_dict()
    published = weights.to_published(ours)
    assert weights.to_module(published).keys() == ours.keys()
    assert weights.config_from_state_dict(published) == SOUND


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 48, "num_heads": 2, "heads": HeadConfig(48, 4, widths=(8, 1)), "num_layers": 3},
        {"conv_dims": (8,) * 4 + (12,) * 3, "position_kernel": 7, "position_groups": 2},
    ],
)
def test_sizes_are_read_from_any_file(change):
    config = replace(SOUND, **change)
    tensors = weights.to_published(AudioBox(config, device="meta").state_dict())
    assert weights.config_from_state_dict(tensors) == config


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.wavlm", None)
    with pytest.raises(HalloLiveError, match=r"pip install \"hallo-live\[rewards\]\""):
        AudioBox(SOUND, device="meta")
