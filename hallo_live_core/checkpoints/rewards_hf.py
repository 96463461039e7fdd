"""Weight files of the two judges whose networks transformers brings -> ready judges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..devices import default_dtype
from ..errors import CheckpointError
from ..rewards.audiobox import weights as audio_weights
from ..rewards.audiobox.judge import PUBLISHED_TARGETS, AudioJudge, Target
from ..rewards.audiobox.network import AudioBox
from ..rewards.videoalign import weights as video_weights
from ..rewards.videoalign.judge import VideoJudge
from ..rewards.videoalign.network import VideoAlign
from ..rewards.videoalign.prompt import tokenizer_from_json
from ..rewards.videoalign.settings import (
    Settings,
    settings_from_config,
    settings_to_config,
)
from . import identify
from .assemble import assemble, check_fit, reading
from .build import META
from .catalog import AUDIOBOX, VIDEO_REWARD, VIDEO_REWARD_TOKENIZER, locate
from .files import DOWNLOAD_AGAIN, WeightFile, read_bytes, read_file, take
from .safetensors_writer import write_safetensors

TARGETS = "target_transform"
"""Entry of AudioBox' files with the mean and spread of its ratings."""

QWEN_CONFIG, MODEL_CONFIG = "config.json", "model_config.json"
"""Optional files beside VideoReward's weights or one folder up: sizes of other heads than the
published ones, and what the rewards are normalised with."""


def load_audio_judge(models: Path, *, device: torch.device | str = "cpu") -> AudioJudge:
    """The judge of sound from its file, anywhere below `models`.

    Raises:
        CheckpointError: the file is missing, damaged or another model.
        HalloLiveError: transformers is not installed.
    """
    path = locate(models, (AUDIOBOX,))[AUDIOBOX.key]
    return audio_judge_from_file(path, device=device)


def audio_judge_from_file(path: Path, *, device: torch.device | str = "cpu") -> AudioJudge:
    """The judge of sound from `checkpoint.pt`, or `model.safetensors` with its `config.json`.

    Raises:
        CheckpointError: the file is missing, damaged or another model.
        HalloLiveError: transformers is not installed.
    """
    file = read_file(path)
    stored = file.metadata.get(TARGETS)
    settings = _json_beside(path, (QWEN_CONFIG,))
    targets = json.loads(stored) if stored else settings.get(TARGETS)
    network = audiobox_from_state_dict(file.tensors, file.name, device=device)
    return AudioJudge(network, _targets(targets, network.config.heads.axes, file.name))


def audiobox_from_state_dict(
    tensors: dict[str, Tensor], source: str, *, device: torch.device | str = "cpu"
) -> AudioBox:
    """AudioBox Aesthetics made of these tensors, in float32; the dict is emptied.

    Raises:
        CheckpointError: this is another model.
        HalloLiveError: transformers is not installed.
    """
    tensors = take(tensors, source)
    with reading(source, identify.AUDIOBOX, tensors):
        module = AudioBox(audio_weights.config_from_state_dict(tensors), device=META)
        ready = audio_weights.to_module(tensors)
    tensors.clear()
    return assemble(module, ready, source=source, dtype=torch.float32, device=device)


def load_video_judge(
    models: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    reference: bool = False,
) -> VideoJudge:
    """The judge of the picture from its two files, anywhere below `models`.

    `dtype` None is bfloat16, on the CPU float32; `reference` as in `VideoJudge`.

    Raises:
        CheckpointError: a file is missing, damaged or another model.
        HalloLiveError: transformers is not installed.
    """
    paths = locate(models, (VIDEO_REWARD, VIDEO_REWARD_TOKENIZER))
    return video_judge_from_files(
        paths[VIDEO_REWARD.key],
        paths[VIDEO_REWARD_TOKENIZER.key],
        device=device,
        dtype=dtype,
        reference=reference,
    )


def video_judge_from_files(
    weights: Path,
    tokenizer: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    reference: bool = False,
) -> VideoJudge:
    """The judge of the picture from `model.pth` or its conversion, and a `tokenizer.json`.

    Raises:
        CheckpointError: a file is missing, damaged or another model.
        HalloLiveError: transformers is not installed.
    """
    tokenize = tokenizer_from_json(read_bytes(tokenizer))
    file = read_file(weights)
    settings, sizes = _video_settings(file, weights)
    dtype = dtype or default_dtype(torch.device(device))
    network = videoalign_from_state_dict(
        file.tensors, file.name, settings=settings, sizes=sizes, dtype=dtype, device=device
    )
    if max(tokenize.special.values()) >= network.config.vocab_size:
        raise CheckpointError(
            f"{Path(tokenizer).name} does not belong to {file.name}",
            found=f"tokens up to {max(tokenize.special.values())}, "
            f"{network.config.vocab_size} embeddings",
            fix="use the tokenizer of KlingTeam/VideoReward",
        )
    return VideoJudge(network, tokenize, settings.norms, reference=reference)


def videoalign_from_state_dict(
    tensors: dict[str, Tensor],
    source: str,
    *,
    settings: Settings | None = None,
    sizes: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> VideoAlign:
    """VideoAlign made of these tensors, published or converted; the dict is emptied.

    `sizes` is the content of Qwen's `config.json`, None for the published model; `dtype` None
    keeps the stored one.

    Raises:
        CheckpointError: this is another model.
        HalloLiveError: transformers is not installed.
    """
    tensors = take(tensors, source)
    with reading(source, identify.VIDEO_REWARD, tensors):
        module, ready = _video_module(tensors, settings or Settings(), sizes)
    tensors.clear()
    network = assemble(module, ready, source=source, dtype=dtype, device=device)
    return network.to(device)  # the rotary frequencies, which no file holds


def convert_video_reward(file: WeightFile, source: Path, target: Path, dtype: torch.dtype) -> None:
    """Write VideoReward as one file: adapters merged in float32, the unused output layer left out.

    Raises:
        CheckpointError: the source is another model, or the target cannot be written.
    """
    settings, sizes = _video_settings(file, source)
    with reading(file.name, identify.VIDEO_REWARD, file.tensors):
        module, ready = _video_module(file.tensors, settings, sizes)
        check_fit(module, ready, file.name)
    metadata = {
        "format": "pt",
        "converted_from": file.name,
        QWEN_CONFIG: json.dumps(video_weights.settings_of(module.config), sort_keys=True),
        MODEL_CONFIG: json.dumps(settings_to_config(settings), sort_keys=True),
    }
    write_safetensors(target, ready, metadata=metadata, dtype=dtype)


def _video_module(
    tensors: Mapping[str, Tensor], settings: Settings, sizes: Mapping[str, Any] | None
) -> tuple[VideoAlign, dict[str, Tensor]]:
    config = video_weights.config_from_state_dict(tensors, sizes)
    ready = video_weights.to_module(tensors, lora_alpha=settings.lora_alpha)
    return VideoAlign(config, device=META), ready


def _video_settings(file: WeightFile, path: Path) -> tuple[Settings, dict[str, Any]]:
    """From the metadata of a converted file, else from the files near a published one."""
    if QWEN_CONFIG in file.metadata:
        found = [json.loads(file.metadata[name]) for name in (MODEL_CONFIG, QWEN_CONFIG)]
    else:
        found = [_json_beside(path, (name, f"../{name}")) for name in (MODEL_CONFIG, QWEN_CONFIG)]
    return settings_from_config(found[0]), found[1]


def _json_beside(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The first of these files seen from the folder of `path`, {} if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    for name in names:
        beside = Path(path).parent / name
        if beside.is_file():
            try:
                return dict(json.loads(read_bytes(beside)))
            except (ValueError, TypeError) as error:
                raise CheckpointError(
                    f"{beside} cannot be understood", found=error, fix=DOWNLOAD_AGAIN
                ) from error
    return {}


def _targets(
    stored: Mapping[str, Mapping[str, float]] | None, axes: Sequence[str], source: str
) -> Mapping[str, Target]:
    if stored is None:
        return PUBLISHED_TARGETS
    try:
        return {axis: Target(stored[axis]["mean"], stored[axis]["std"]) for axis in axes}
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"The ratings' mean and spread in {source} cannot be understood",
            found=error,
            fix=DOWNLOAD_AGAIN,
        ) from error
