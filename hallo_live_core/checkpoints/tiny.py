"""Writes a complete set of tiny, untrained models under the published names and layouts.

They run everywhere in seconds and make moving colours and a hum: for trying the installation out,
and for tests of everything that does not need trained weights.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..paths import appearing, refuse_link
from . import tiny_weights
from .config_json import config_to_metadata
from .files import PREFIX, RAW
from .safetensors_writer import write_safetensors
from .tiny_tokenizer import train_tokenizer

TOKENIZER_FOLDER = "google/umt5-xxl"

COMFYUI_FOLDERS = {
    "hallolive_dit.safetensors": "diffusion_models",
    "Wan2.2_VAE.pth": "vae",
    "v1-16.pth": "vae",
    "best_netG.pt": "vae",
    "taew2_2.safetensors": "vae_approx",
    "models_t5_umt5-xxl-enc-bf16.pth": "text_encoders",
    TOKENIZER_FOLDER: "text_encoders",
}
"""Where the files go below ComfyUI's `models`."""

LARGEST_TINY = 2**26
"""Bytes; a file beyond this is not one of ours, and took somebody long to download."""


def write_tiny_models(directory: Path, *, seed: int = 0, comfyui: bool = False) -> Path:
    """Write every file that a stream needs into `directory`; existing tiny ones are replaced.

    The same seed gives the same files. With `comfyui`, `directory` is an installed ComfyUI: the
    files go into the folders of its `models`, the transformer as safetensors. Returns the folder
    below which the files lie.

    Raises:
        CheckpointError: a file cannot be written, or is a real model, or `directory` is no
            ComfyUI.
        HalloLiveError: a package that it needs is not installed.
    """
    root = Path(directory)
    if comfyui:
        if not (root / "models").is_dir():
            raise CheckpointError(
                f"{root} is not a ComfyUI folder",
                found="no folder models in it",
                fix="name the folder in which ComfyUI's main.py lies",
            )
        root = root / "models"

    def place(name: str) -> Path:
        return root / COMFYUI_FOLDERS.get(name, "") / name if comfyui else root / name

    for name in (*COMFYUI_FOLDERS, "hallolive_dit.pt"):
        if name != TOKENIZER_FOLDER:
            _check_replaceable(place(name))
    generator = torch.Generator().manual_seed(seed)
    transformer = tiny_weights.transformer(generator)
    if comfyui:
        metadata = {"format": "pt"} | config_to_metadata(tiny_weights.TRANSFORMER)
        target = place("hallolive_dit.safetensors")
        write_safetensors(target, transformer, metadata=metadata, dtype=torch.bfloat16)
    else:
        flat = {PREFIX + name: tensor.bfloat16() for name, tensor in transformer.items()}
        save(root / "hallolive_dit.pt", flat)
    save(place("Wan2.2_VAE.pth"), tiny_weights.video_vae(generator))
    save(place("v1-16.pth"), tiny_weights.audio_vae(generator))
    save(place("best_netG.pt"), {RAW: tiny_weights.vocoder(generator)})
    text_encoder = tiny_weights.text_encoder(generator)
    save(
        place("models_t5_umt5-xxl-enc-bf16.pth"),
        {name: tensor.bfloat16() for name, tensor in text_encoder.items()},
    )
    write_safetensors(
        place("taew2_2.safetensors"),
        tiny_weights.light_decoder(generator),
        metadata={"format": "pt"},
        dtype=torch.float16,
    )
    for name, content in train_tokenizer().items():
        write_bytes(place(TOKENIZER_FOLDER) / name, content)
    return root


def _check_replaceable(target: Path) -> None:
    refuse_link(target, CheckpointError)
    if target.is_file() and target.stat().st_size > LARGEST_TINY:
        raise CheckpointError(
            f"{target} is no tiny model and was not replaced",
            found=f"{target.stat().st_size:,} bytes",
            fix="choose another folder",
        )


def save(target: Path, content: dict[str, Tensor] | dict[str, dict[str, Tensor]]) -> None:
    """Write tensors as torch does; the same tensors give the same bytes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    buffer = io.BytesIO()  # a path would put its name into the file
    torch.save(content, buffer)
    write_bytes(target, buffer.getvalue())


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file that appears only when it is complete.

    Raises:
        CheckpointError: it cannot be written, or the name is a link.
    """
    with appearing(target, CheckpointError) as file:
        file.write(content)
