"""Reads weight files: torch zip files and safetensors, mapped into memory, never executed."""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .catalog import published_size
from .quantise import add_declared

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".model")

RAW, AVERAGED = "generator", "generator_ema"
"""Where training checkpoints keep the student and its moving average (spec 01 §9)."""

CRITIC = "critic"
"""Where they keep the network that learns what the student makes."""

STATE_DICT = "state_dict"
"""Where AudioBox keeps the network, its constants beside it (spec 08 §3)."""

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What sharding, checkpointing and compiling leave in names, at any depth."""

PREFIX = "model."
"""Training checkpoints keep the network one level down."""

LONGEST_SETTING = 2**17
"""Characters of JSON; what a file says of itself is shorter."""

LONGEST_NAME = 120
"""Characters of a tensor's name that a message repeats."""

LONGEST_REASON = 160
"""Characters of what a library says that a message repeats."""

GIT_LFS = b"version https://git-lfs"
DOWNLOAD_AGAIN = "download the file again"
READABLE = "check the permissions of the file, and the disk"


@dataclass
class WeightFile:
    """The tensors of one file, under the names they have there, and what else the file says.

    Tensors are views of the mapped file: nothing is read before it is used.
    """

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def read_file(path: Path, *, ema: bool = True, critic: bool = False) -> WeightFile:
    """Open any weight file and find the state dict in it.

    Of a training checkpoint the moving average is taken if `ema` and present, else the raw
    student; with `critic`, its critic. Wrapper names and one leading ``model.`` are
    stripped (spec 01 §9).

    Raises:
        CheckpointError: the file is missing, damaged, contains code, or holds no state dict.
    """
    path = Path(path)
    _check_exists(path)
    if path.suffix.lower() in SAFETENSORS:
        content, metadata = _read_safetensors(path)
    elif path.suffix.lower() in PICKLES:
        content = _read_pickle(path)
        metadata = _settings(content)
    else:
        raise CheckpointError(
            f"{path.name} does not end as files of weights do",
            fix=f"use one of {', '.join(SAFETENSORS + PICKLES)}",
        )
    tensors = take(content, path.name, ema=ema, critic=critic)
    add_declared(tensors, metadata, path.name)
    _check_tensors(tensors, path)
    return WeightFile(path.name, tensors, metadata)


def take(
    content: object, source: str, *, ema: bool = True, critic: bool = False
) -> dict[str, Tensor]:
    """The flat state dict inside the content of a file, under plain names.

    Dicts inside `content` are emptied, so that the result alone keeps the tensors alive.

    Raises:
        CheckpointError: it holds no state dict of one network.
    """
    plain = plain_names(pick(content, source, ema=ema, critic=critic))
    if isinstance(content, dict):
        for inner in content.values():
            if isinstance(inner, dict):
                inner.clear()
        content.clear()
    return plain


def pick(
    content: object, source: str, *, ema: bool = True, critic: bool = False
) -> dict[str, Tensor]:
    """The flat state dict inside the content of a file.

    Raises:
        CheckpointError: it holds no state dict of one network.
    """
    if isinstance(content, Mapping):
        students = (AVERAGED, RAW) if ema else (RAW, AVERAGED)
        if critic and CRITIC not in content and any(name in content for name in students):
            raise CheckpointError(
                f"{source} holds a student but no critic",
                found=_outline(content),
                fix="leave model.critic empty, so that it begins as the teacher",
            )
        order = ((CRITIC,) if critic else students) + (STATE_DICT,)
        inner = next((content[key] for key in order if key in content), content)
        if isinstance(inner, Mapping) and inner and all(map(torch.is_tensor, inner.values())):
            return {str(name): tensor for name, tensor in inner.items()}
    raise CheckpointError(
        f"{source} holds no weights of a single network",
        found=_outline(content),
        fix=f"use a flat file of tensors, or a checkpoint with the entry {RAW!r}",
    )


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without wrapper names and without one leading ``model.``.

    Raises:
        CheckpointError: two names become one.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        for wrapper in WRAPPERS:
            short = short.replace(wrapper, "")
        short = short.removeprefix(PREFIX)
        if short in plain:
            raise CheckpointError(
                f"Two tensors of the file are both called {short}",
                found=name,
                fix="use a file that holds one network",
            )
        plain[short] = tensor
    return plain


def read_bytes(path: Path) -> bytes:
    """The content of a small file, a tokenizer say.

    Raises:
        CheckpointError: it is missing or unreadable.
    """
    path = Path(path)
    _check_exists(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read", found=error, fix=READABLE) from error


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"There is no file {path}",
            fix="check the path, or put the file into the models directory",
        )
    try:
        with path.open("rb") as file:
            start = file.read(len(GIT_LFS))
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read", found=error, fix=READABLE) from error
    if start == GIT_LFS or not start:
        raise CheckpointError(
            f"{path.name} is {'a git-lfs pointer, not the file itself' if start else 'empty'}",
            fix=DOWNLOAD_AGAIN,
        )


def _check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Only dense tensors with all their data in the file: others promise more than there is."""
    for name, tensor in tensors.items():
        dense = tensor.device.type == "cpu" and tensor.layout == torch.strided
        if not (dense and not tensor.is_quantized and tensor.nbytes <= _data_bytes(tensor)):
            raise CheckpointError(
                f"{path.name} holds a tensor without data of its own and was not used",
                found=f"{name[:LONGEST_NAME]} {list(tensor.shape)}",
                fix="ask its author for a .safetensors file",
            )


def _data_bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _check_entries(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        if "nsupported" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path.name} contains objects other than tensors, which could run code, "
                "and was not opened",
                found=_culprit(error),
                fix="ask its author for a .safetensors file",
            ) from error
        raise _damaged(path, reason) from error
    except Exception as error:  # garbage leads the unpickler anywhere: IndexError, TypeError, ...
        raise _damaged(path, error) from error


def _check_entries(path: Path) -> None:
    """torch stores entries as they are; packed ones are no work of its, and may be endless."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{path.name} is a compressed archive and was not opened",
                    found=f"{entry.filename[:LONGEST_NAME]}, {entry.file_size:,} bytes unpacked",
                    fix="choose the file that torch.save wrote; unpack archives first",
                )


def _settings(content: object) -> dict[str, str]:
    """The entries beside the state dict that JSON can hold, as JSON: what a file says of itself."""
    found: dict[str, str] = {}
    for name, entry in content.items() if isinstance(content, Mapping) else ():
        with contextlib.suppress(TypeError, ValueError, RecursionError):  # tensors, or no end
            if isinstance(name, str) and (text := _short_json(entry)) is not None:
                found[name] = text
    return found


def _short_json(entry: object) -> str | None:
    """JSON of an entry, written piece by piece: nested references can make a few bytes endless."""
    text = ""
    for piece in json.JSONEncoder().iterencode(entry):
        text += piece
        if len(text) > LONGEST_SETTING:
            return None
    return text


def _culprit(error: Exception) -> str:
    """The line of torch's long message that names the object."""
    lines = [line for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line]
    return lines[-1].strip()[:LONGEST_REASON]


def _damaged(path: Path, reason: object) -> CheckpointError:
    first_line = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    size, expected = path.stat().st_size, published_size(path.name)
    of = f" of {expected:,}" if expected and expected != size else ""
    return CheckpointError(
        f"{path.name} is incomplete or damaged",
        found=f"{size:,}{of} bytes; {first_line[:LONGEST_REASON]}",
        fix=DOWNLOAD_AGAIN,
    )


def _outline(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [
        name[:LONGEST_NAME] if isinstance(name, str) else f"a {type(name).__name__}"
        for name in list(content)[:4]
    ]
    return f"a dict with {', '.join(names)}{', ...' if len(content) > len(names) else ''}"
