"""Published checkpoints -> one safetensors file each, ready to share and to map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..models.dit import weights as transformer_weights
from ..models.dit.fusion import DualStreamDiT
from ..paths import refuse_link
from . import identify, quantise
from .assemble import check_fit, reading
from .build import META
from .config_json import config_to_metadata
from .files import SAFETENSORS, WeightFile, read_file
from .lora import LoraFiles, changed, load_steps
from .rewards_hf import convert_video_reward
from .safetensors_writer import Encoder, write_safetensors

Change = Callable[[Tensor], Tensor]


def convert(
    source: Path,
    target: Path,
    *,
    ema: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    loras: LoraFiles = (),
) -> Path:
    """Write the student of a training checkpoint, flat export or safetensors file as `target`.

    Names stay as published, without prefix; the sizes go into the metadata. One tensor at a time
    is in memory. `loras` are merged into the transformer. Of VideoReward, the judge, the adapters
    are merged (spec 08 §4.1). `target` appears only when it is complete. Returns `target`.

    Raises:
        CheckpointError: the source is damaged or another model, or the target cannot be written.
    """
    source, target = Path(source), Path(target)
    _check_target(target)
    file = read_file(source, ema=ema)
    if identify.identify(file.tensors) == identify.VIDEO_REWARD and not loras:
        convert_video_reward(file, source, target, dtype)
        return target
    metadata = _describe(file)
    encoders = {name: (dtype, change) for name, change in _changes(file.tensors, loras).items()}
    write_safetensors(target, file.tensors, metadata=metadata, dtype=dtype, encoders=encoders)
    return target


def convert_to_fp8(
    source: Path,
    target: Path,
    *,
    ema: bool = True,
    keep_audio: bool = False,
    loras: LoraFiles = (),
) -> dict[str, float]:
    """As `convert`, with the matrices of the blocks in scaled fp8, ComfyUI's current layout.

    All else is bf16; with `keep_audio` so is the audio stream. Returns how far each layer is off:
    the norm of the difference over the norm of the weight.

    Raises:
        CheckpointError: as `convert`, or the source is quantised already.
    """
    source, target = Path(source), Path(target)
    _check_target(target)
    file = read_file(source, ema=ema)
    metadata = _describe(file)
    changes = _changes(file.tensors, loras)
    stored = quantise.FORMATS[quantise.WRITTEN]
    encoders: dict[str, Encoder] = {k: (torch.bfloat16, change) for k, change in changes.items()}
    tensors, errors = dict(file.tensors), dict[str, float]()
    for layer in quantise.quantisable(file.tensors, keep_audio=keep_audio):
        name = layer + quantise.WEIGHT
        change = changes.get(name, _unchanged)
        weight = change(file.tensors[name])
        scale = quantise.scale_of(weight)
        errors[layer] = quantise.relative_error(weight, scale)
        encoders[name] = stored, partial(_narrowed, change=change, scale=scale)
        encoders[layer + quantise.SCALE] = torch.float32, torch.clone
        tensors[layer + quantise.SCALE] = scale
        tensors[layer + quantise.QUANT] = quantise.layer_mark()
    write_safetensors(target, tensors, metadata=metadata, dtype=torch.bfloat16, encoders=encoders)
    return errors


def _changes(tensors: Mapping[str, Tensor], loras: LoraFiles) -> dict[str, Change]:
    """What happens to each tensor that a LoRA changes, when its turn comes."""
    found = load_steps(tensors, loras)
    return {name: partial(changed, steps=steps) for name, steps in found.items()}


def _unchanged(weight: Tensor) -> Tensor:
    return weight


def _narrowed(weight: Tensor, change: Change, scale: Tensor) -> Tensor:
    return quantise.to_8_bits(change(weight), scale)


def _describe(file: WeightFile) -> dict[str, str]:
    """What the header of the new file says; refuses all but whole transformers of full width."""
    with reading(file.name, identify.TRANSFORMER, file.tensors):
        if quantise.is_quantised(file.tensors):
            raise CheckpointError(
                f"{file.name} is quantised already",
                fix="convert the published file, or one in bf16",
            )
        config = transformer_weights.config_from_state_dict(file.tensors)
        named = transformer_weights.to_module(file.tensors)
        check_fit(DualStreamDiT(config, device=META), named, file.name)
    return {"format": "pt", "converted_from": file.name} | config_to_metadata(config)


def _check_target(target: Path) -> None:
    if target.suffix.lower() not in SAFETENSORS:
        raise CheckpointError(
            "The converted file must be a safetensors file",
            found=target.name,
            fix=f"call it {target.stem}.safetensors",
        )
    refuse_link(target, CheckpointError)
    if target.exists():
        raise CheckpointError(f"{target} exists already", fix="delete it or choose another name")
