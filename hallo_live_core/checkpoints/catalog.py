"""Every published file the project reads: where it comes from, how to know it, its licence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import GIGA, CheckpointError, gigabytes

APACHE = "Apache-2.0"
NON_COMMERCIAL = "CC-BY-NC-4.0"
OPENRAIL = "OpenRAIL++-M"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file. `names` are the accepted names, the published one first.

    A name with folders in it matches the end of a path. `size` is in bytes, `about` its rounded
    value where the exact one is not recorded; `sha256` is None where no trustworthy value is known.
    """

    key: str
    purpose: str
    names: tuple[str, ...]
    repository: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    non_commercial: bool = False
    host: str = "https://huggingface.co"
    about: int | None = None

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"{self.host}/{self.repository}"


TRANSFORMER = ModelFile(
    key="transformer",
    purpose="the streaming student: picture and sound from noise",
    names=(
        "hallolive_dit.pt",
        "hallolive_dit.safetensors",
        "hallolive_dit_bf16.safetensors",
        "hallo-live.safetensors",
        "hallo-live-bf16.safetensors",
    ),
    repository="fudan-generative-ai/Hallo-Live",
    licence="MIT",
)
VIDEO_VAE = ModelFile(
    key="video_vae",
    purpose="video latents to frames",
    names=("Wan2.2_VAE.pth", "Wan2.2_VAE.safetensors", "wan2.2_vae.safetensors"),
    repository="Wan-AI/Wan2.2-TI2V-5B",
    licence=APACHE,
    size=2_818_839_170,
    sha256="20eb789667fa5e60e7516bf509512f6cb61f01b0aa0695eadaea930c13892b36",
)
TAEHV = ModelFile(
    key="taehv",
    purpose="the light video decoder: 200 times less work, less detail",
    names=("taew2_2.safetensors", "taew2_2.pth", "lighttaew2_2.safetensors"),
    repository="madebyollin/taehv",
    licence="MIT",
    host="https://github.com",
)
AUDIO_VAE = ModelFile(
    key="audio_vae",
    purpose="audio latents to a mel spectrogram",
    names=("v1-16.pth", "v1-16.safetensors", "mmaudio_vae_16k.safetensors"),
    repository="hkchengrex/MMAudio",
    licence=NON_COMMERCIAL,
    non_commercial=True,
)
VOCODER = ModelFile(
    key="vocoder",
    purpose="a mel spectrogram to a waveform",
    names=("best_netG.pt", "best_netG.safetensors", "bigvgan_16k.safetensors"),
    repository="hkchengrex/MMAudio",
    licence=NON_COMMERCIAL,
    non_commercial=True,
)
TEXT_ENCODER = ModelFile(
    key="text_encoder",
    purpose="the prompt to an embedding",
    names=(
        "models_t5_umt5-xxl-enc-bf16.pth",
        "models_t5_umt5-xxl-enc-bf16.safetensors",
        "umt5_xxl_bf16.safetensors",
        "umt5_xxl_fp16.safetensors",
    ),
    repository="Wan-AI/Wan2.2-TI2V-5B",
    licence=APACHE,
    size=11_361_920_418,
    sha256="7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
)
TOKENIZER = ModelFile(
    key="tokenizer",
    purpose="the prompt to tokens",
    names=(
        "google/umt5-xxl/tokenizer.json",
        "umt5-xxl/tokenizer.json",
        "google/umt5-xxl/spiece.model",
        "umt5-xxl/spiece.model",
    ),
    repository="Wan-AI/Wan2.2-TI2V-5B",
    licence=APACHE,
    size=16_837_417,
    sha256="6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b",
)
SPIECE = ModelFile(
    key="spiece",
    purpose="the same tokenizer in SentencePiece's own format",
    names=("google/umt5-xxl/spiece.model", "umt5-xxl/spiece.model"),
    repository="Wan-AI/Wan2.2-TI2V-5B",
    licence=APACHE,
    size=4_548_313,
    sha256="e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458",
)

FACE_DETECTOR = ModelFile(
    key="face_detector",
    purpose="S3FD: where the faces are, for the lip-sync judge",
    names=("sfd_face.pth", "sfd_face.safetensors"),
    repository="ByteDance/LatentSync-1.6",
    licence=OPENRAIL,
    about=89_800_000,
)
SYNCNET = ModelFile(
    key="syncnet",
    purpose="SyncNet v2: whether lips and speech fit",
    names=("syncnet_v2.model", "syncnet_v2.safetensors"),
    repository="ByteDance/LatentSync-1.6",
    licence=OPENRAIL,
    about=54_600_000,
)
AUDIOBOX = ModelFile(
    key="audiobox",
    purpose="AudioBox Aesthetics: how good the sound is",
    names=(
        "audiobox-aesthetics/model.safetensors",
        "audiobox-aesthetics/checkpoint.pt",
        "audiobox_aesthetics.safetensors",
        "audiobox_aesthetics.pt",
    ),
    repository="facebook/audiobox-aesthetics",
    licence="CC-BY-4.0",
    size=415_472_992,
)
VIDEO_REWARD = ModelFile(
    key="video_reward",
    purpose="VideoAlign: how good the picture is and whether it fits the prompt",
    names=(
        "VideoReward/checkpoint-11352/model.pth",
        "checkpoint-11352/model.pth",
        "videoreward.safetensors",
        "videoreward_bf16.safetensors",
    ),
    repository="KlingTeam/VideoReward",
    licence=APACHE,
    size=5_031_072_529,
    sha256="48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9",
)
VIDEO_REWARD_TOKENIZER = ModelFile(
    key="video_reward_tokenizer",
    purpose="VideoAlign's prompt to tokens",
    names=(
        "VideoReward/checkpoint-11352/tokenizer/tokenizer.json",
        "checkpoint-11352/tokenizer/tokenizer.json",
        "VideoReward/tokenizer.json",
        "Qwen2-VL-2B-Instruct/tokenizer.json",
    ),
    repository="KlingTeam/VideoReward",
    licence=APACHE,
    about=11_000_000,
)

CATALOG = (
    TRANSFORMER,
    VIDEO_VAE,
    TAEHV,
    AUDIO_VAE,
    VOCODER,
    TEXT_ENCODER,
    TOKENIZER,
    SPIECE,
)
"""What a clip is made with."""

JUDGES = (FACE_DETECTOR, SYNCNET, AUDIOBOX, VIDEO_REWARD, VIDEO_REWARD_TOKENIZER)
"""What clips are judged with; nobody needs these to make one."""


def published_size(name: str) -> int | None:
    """Bytes of the published file of this name, where known."""
    files = (*CATALOG, *JUDGES)
    return next((file.size for file in files if PurePosixPath(file.names[0]).name == name), None)


def locate(directory: Path, wanted: Iterable[ModelFile]) -> dict[str, Path]:
    """The path of each wanted file, by key, from anywhere below `directory`.

    The first accepted name wins; of equal names the one in the fewest folders.

    Raises:
        CheckpointError: files are missing; names all of them and their origin.
    """
    directory, wanted = Path(directory), tuple(wanted)
    if not directory.is_dir():
        raise CheckpointError(
            f"There is no models directory {directory}", fix="check the path to the models"
        )
    found = _find(directory, wanted)
    missing = [file for file in wanted if file.key not in found]
    if missing:
        raise CheckpointError(
            f"Model files are missing in {directory}",
            found=missing_list(missing),
            fix="download them into any folder below the models directory",
        )
    return found


def missing_files(directory: Path, wanted: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
    """Which of these files are nowhere below `directory`, which need not exist."""
    wanted = tuple(wanted)
    found = _find(Path(directory), wanted)
    return tuple(file for file in wanted if file.key not in found)


def missing_list(files: Iterable[ModelFile]) -> str:
    """Name, purpose, origin and size of files that somebody has to download."""
    return "no " + ", no ".join(_origin(file) for file in files)


def _find(directory: Path, wanted: Iterable[ModelFile]) -> dict[str, Path]:
    by_name: dict[str, list[Path]] = {}
    for path in _walk(directory):
        by_name.setdefault(path.name, []).append(path)
    found = {file.key: _best(by_name, file) for file in wanted}
    return {key: path for key, path in found.items() if path is not None}


def _walk(directory: Path) -> Iterator[Path]:
    """Files below a directory, through links, each real folder once."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in files)


def _best(by_name: dict[str, list[Path]], file: ModelFile) -> Path | None:
    for name in file.names:
        ending = PurePosixPath(name).parts
        paths = [
            path for path in by_name.get(ending[-1], []) if path.parts[-len(ending) :] == ending
        ]
        if paths:
            return min(paths, key=lambda path: (len(path.parts), str(path)))
    return None


def _origin(file: ModelFile) -> str:
    nbytes = file.size or file.about or 0
    size = f", {_rounded(nbytes)}" if nbytes else ""
    terms = f", {file.licence}: not for commercial use" if file.non_commercial else ""
    return f"{file.names[0]} ({file.purpose}; from {file.url}{size}{terms})"


def _rounded(nbytes: int) -> str:
    return gigabytes(nbytes) if nbytes >= GIGA else f"{nbytes / 1e6:.0f} MB"
