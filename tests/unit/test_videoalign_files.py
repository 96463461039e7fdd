"""The files of the judge of the picture: prompt template, tokenizer, adapters, conversion."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hallo_live_core.checkpoints.convert import convert
from hallo_live_core.checkpoints.files import read_file
from hallo_live_core.checkpoints.rewards_hf import (
    load_video_judge,
    video_judge_from_files,
    videoalign_from_state_dict,
)
from hallo_live_core.checkpoints.tiny_judges_hf import PICTURE, write_tiny_video_judge
from hallo_live_core.errors import CheckpointError, ShapeError
from hallo_live_core.rewards.base import Clip
from hallo_live_core.rewards.videoalign import weights
from hallo_live_core.rewards.videoalign.judge import PUBLISHED_NORM, Norm
from hallo_live_core.rewards.videoalign.prompt import (
    CHAT_TOKENS,
    REWARD_TOKENS,
    TEMPLATE_FILE,
    VIDEO_PAD,
    load_template,
    reward_positions,
    tokenizer_from_json,
)
from hallo_live_core.rewards.videoalign.settings import settings_from_config

CHECKPOINT = Path("VideoReward/checkpoint-11352/model.pth")
TOKENIZER = Path("VideoReward/checkpoint-11352/tokenizer/tokenizer.json")
GOLDEN_PROMPTS = Path(__file__).parents[1] / "golden/data/rewards/videoalign_prompt.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video_judge_files")
    write_tiny_video_judge(folder, torch.Generator().manual_seed(0))
    return folder


@pytest.fixture(scope="module")
def tokenizer(models):
    return tokenizer_from_json((models / TOKENIZER).read_bytes())


@pytest.fixture
def copy(models, tmp_path):
    return Path(shutil.copytree(models, tmp_path / "models"))


def noise() -> Clip:
    pixels = torch.randint(0, 256, (4, 56, 56, 3), generator=torch.Generator().manual_seed(3))
    return Clip(pixels.byte(), Fraction(24), prompt="A man in a hat.")


def test_the_template_names_its_source_and_keeps_its_edges():
    assert "KlingTeam/VideoReward" in json.loads(TEMPLATE_FILE.read_text())["source"]
    template = load_template().template
    assert template.startswith("\n") and template.endswith("\n")
    assert "**Visual Quality:**  \n" in template and "possible. \n" in template


@pytest.mark.parametrize(
    "prompt",
    [
        "plain",
        "",
        "with <|VQ_reward|> and <|video_pad|> and <|im_end|> inside",
        "{braces} {text_prompt} \\1 'quotes'",
        "中文 \n new line",
    ],
)
def test_any_prompt_leaves_one_reward_token_of_each_kind_and_the_video_alone(tokenizer, prompt):
    ids = tokenizer(prompt, visual_tokens=5)
    assert [i for i in ids if i in tokenizer.reward_ids] == list(tokenizer.reward_ids)
    assert ids.count(tokenizer.special[VIDEO_PAD]) == 5
    assert ids.count(tokenizer.special["<|im_end|>"]) == 2


def test_the_prompt_stands_before_the_last_reward_token_only(tokenizer):
    one, other = tokenizer("A cat.", 2), tokenizer("Two dogs.", 2)
    motion = one.index(tokenizer.reward_ids[1])
    assert one[: motion + 1] == other[: motion + 1]
    assert one != other


def test_a_tokenizer_without_reward_tokens_gets_them_in_order(models, tokenizer):
    content = json.loads((models / TOKENIZER).read_text())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] not in REWARD_TOKENS
    ]
    qwen = tokenizer_from_json(json.dumps(content).encode())
    assert qwen.special == tokenizer.special
    assert qwen("A <|TA_reward|> cat.", 3) == tokenizer("A <|TA_reward|> cat.", 3)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_refused_in_one_line(content):
    with pytest.raises(CheckpointError, match=r"not a usable tokenizer\.json"):
        tokenizer_from_json(content)


def test_a_tokenizer_of_another_chat_is_refused(models):
    content = json.loads((models / TOKENIZER).read_text())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if token["content"] != CHAT_TOKENS[1]
    ]
    with pytest.raises(CheckpointError, match="video_pad"):
        tokenizer_from_json(json.dumps(content).encode())


def test_rows_without_exactly_three_reward_tokens_are_refused():
    ids = torch.tensor([[1, 7, 8, 9], [7, 7, 8, 9]])
    with pytest.raises(ShapeError, match=r"\[3, 4\]"):
        reward_positions(ids, (7, 8, 9))


def real_tokenizer():
    """Qwen's vocabulary, which ComfyUI carries; newer models' special tokens are taken away."""
    transformers = pytest.importorskip("transformers")
    root = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    folder = root / "comfy" / "text_encoders" / "qwen25_tokenizer"
    if not folder.is_dir():
        pytest.skip("no Qwen vocabulary here: set COMFYUI_PATH")
    content = json.loads(
        transformers.AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()
    )
    content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] <= 151_656]
    return tokenizer_from_json(json.dumps(content).encode())


def test_token_ids_are_those_of_the_reference_with_the_real_vocabulary():
    tokenizer, golden = real_tokenizer(), json.loads(GOLDEN_PROMPTS.read_text())
    assert {name: tokenizer.special[name] for name in REWARD_TOKENS} == golden["special_tokens"]
    for case in golden["cases"]:
        ids = tokenizer(case["prompt"], visual_tokens=1)
        assert ids == case["token_ids_one_video_pad"]


def test_adapters_are_added_alpha_over_rank_times(models):
    published = read_file(models / CHECKPOINT).tensors
    ready = weights.to_module(published, lora_alpha=8)
    layer = f"{weights.PREFIX}.model.layers.1.mlp.down_proj"
    down, up = (published[f"{layer}.lora_{half}.default.weight"].float() for half in "AB")
    expected = published[f"{layer}.base_layer.weight"].float() + 2 * up @ down
    merged = ready["language_model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(merged, expected.bfloat16())
    assert not torch.equal(merged, published[f"{layer}.base_layer.weight"])


def test_half_an_adapter_is_refused(models):
    published = read_file(models / CHECKPOINT).tensors
    published.pop(f"{weights.PREFIX}.model.layers.0.mlp.up_proj.lora_A.default.weight")
    with pytest.raises(CheckpointError, match=r"half an adapter.*layers\.0\.mlp\.up_proj"):
        videoalign_from_state_dict(published, "model.pth", sizes=weights.settings_of(PICTURE))


def test_a_tensor_that_does_not_belong_is_refused(models):
    published = read_file(models / CHECKPOINT).tensors
    published[f"{weights.PREFIX}.surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="surprise"):
        videoalign_from_state_dict(published, "model.pth", sizes=weights.settings_of(PICTURE))


def test_the_converted_file_is_merged_smaller_and_judges_the_same(models, tmp_path):
    target = convert(models / CHECKPOINT, tmp_path / "videoreward.safetensors")
    with safe_open(target, framework="pt") as file:
        names = set(file.keys())
    assert not any("lora" in name or "lm_head" in name for name in names)
    assert names == set(load_video_judge(models).network.state_dict())
    assert target.stat().st_size < (models / CHECKPOINT).stat().st_size
    converted = video_judge_from_files(target, models / TOKENIZER)
    assert converted.network.config == PICTURE
    assert converted.score(noise()) == load_video_judge(models).score(noise())


def test_a_conversion_keeps_statistics_of_its_own(copy, tmp_path):
    statistics = {"inference_config": {"VQ_mean": 1.5, "VQ_std": 0.5}}
    (copy / "VideoReward" / "model_config.json").write_text(json.dumps(statistics))
    target = convert(copy / CHECKPOINT, tmp_path / "videoreward.safetensors")
    norms = video_judge_from_files(target, copy / TOKENIZER).norms
    assert norms == (Norm(1.5, 0.5), *PUBLISHED_NORM[1:])


@pytest.mark.parametrize(
    "config",
    [
        {"data_config": {"eval_dim": ["Overall"]}},
        {"data_config": {"prompt_template_type": "detailed"}},
        {"use_special_tokens": False},
        {"fps": 4.0},
    ],
)
def test_a_judge_of_another_kind_is_refused(config):
    with pytest.raises(CheckpointError, match="not supported"):
        settings_from_config(config)


def test_the_published_constants_are_those_of_the_spec():
    vq, mq, ta = ((3.6757, 2.2476), (1.1646, 1.3811), (2.8105, 2.5121))  # spec 08 §4.6
    assert (Norm(*vq), Norm(*mq), Norm(*ta)) == PUBLISHED_NORM


def test_published_settings_hold_where_the_file_says_nothing():
    assert settings_from_config({"num_frames": None}).norms == PUBLISHED_NORM
    assert settings_from_config({"fps": 2.0, "peft": {"lora_alpha": 16}}).lora_alpha == 16


def test_a_config_of_another_model_beside_the_weights_is_ignored(models):
    tensors = read_file(models / CHECKPOINT).tensors
    other = {"model_type": "wavlm", "num_attention_heads": 2}
    with pytest.raises(CheckpointError, match="other heads than the published one"):
        weights.config_from_state_dict(tensors, other)
    assert weights.config_from_state_dict(tensors, weights.settings_of(PICTURE)) == PICTURE


def test_a_tokenizer_that_knows_more_tokens_than_the_network_is_refused(copy):
    content = json.loads((copy / TOKENIZER).read_text())
    for token in content["added_tokens"]:
        token["id"] += 5_000
    content["model"]["vocab"] |= {f"x{i}": 1_000 + i for i in range(5_000)}
    (copy / TOKENIZER).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="does not belong"):
        load_video_judge(copy)


def test_missing_files_are_named_with_size_and_origin(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.pth.*5\.0 GB.*tokenizer\.json") as caught:
        load_video_judge(tmp_path)
    assert "https://huggingface.co/KlingTeam/VideoReward" in str(caught.value)
