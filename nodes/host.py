"""Every call to ComfyUI. Names are looked up when they are used, because the host rebinds some."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.text_encoders.wan
import comfy.utils
import folder_paths
import torch

from ..hallo_live_core import CheckpointError, RequestError, gigabytes
from .host_devices import DEFAULT, text_options

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

WEIGHT_DTYPES = {
    DEFAULT: None,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
COMPUTE_DTYPES = [torch.bfloat16, torch.float32]
"""What the networks were made for; float16 overflows in them."""

ATTENTIONS = {DEFAULT: "optimized", "pytorch": "pytorch", "sage": "sage", "flash": "flash"}
"""Our name of each attention kernel and the host's."""

JUDGES_FOLDER = "judges"
"""Below models, and the host's key for it."""


def known(target: type, **wanted: Any) -> dict[str, Any]:
    """Of the wanted keyword arguments those that this version of the host knows."""
    names = inspect.signature(target.__init__).parameters
    return {name: value for name, value in wanted.items() if name in names}


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def list_files(kinds: Iterable[str], *, wanted: str, usual: str, none: str = "") -> list[str]:
    """Names of the files in these model folders; if there is none, one entry that asks for it.

    usual: a part of the names that such files usually have, in small letters. Those come first,
    because a new node takes the first. none: the choice that needs no file; it comes next.
    """
    files = [name for kind in kinds for name in folder_paths.get_filename_list(kind)]
    names = sorted([none, *files] if none else files, key=lambda name: usual not in name.lower())
    return names if files else [*names, f"(put {wanted} into models/{next(iter(kinds))})"]


def find_file(kinds: Iterable[str], name: str, *, wanted: str) -> Path:
    """Where a listed file lies.

    Raises:
        CheckpointError: none of the folders has it.
    """
    for kind in kinds:
        if path := folder_paths.get_full_path(kind, name):
            return Path(path)
    raise CheckpointError(
        f"The file {name!r} is not in models/{' or models/'.join(kinds)}",
        fix=f"put {wanted} there, press R to refresh the lists, and choose it",
    )


def judge_folders() -> list[Path]:
    """Where judges' files lie: models/judges, and what extra_model_paths.yaml adds to it."""
    default = Path(folder_paths.models_dir) / JUDGES_FOLDER
    folder_paths.add_model_folder_path(JUDGES_FOLDER, str(default))
    return [Path(folder) for folder in folder_paths.get_folder_paths(JUDGES_FOLDER)]


# ── Devices, number formats, memory ───────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Numbers:
    """In which format weights are stored and computed with, and the layers that do so."""

    storage: torch.dtype
    compute: torch.dtype
    ops: Any


def transformer_numbers(
    weights: Mapping[str, torch.Tensor], choice: str, device: torch.device
) -> Numbers:
    """What the host thinks best for the transformer, unless the user chose the storage."""
    storage = WEIGHT_DTYPES[choice] or comfy.model_management.unet_dtype(
        device,
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=COMPUTE_DTYPES,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    compute = comfy.model_management.unet_manual_cast(storage, device, COMPUTE_DTYPES) or storage
    ops = comfy.ops.pick_operations(storage, compute, load_device=device)
    return Numbers(storage, compute, ops)


def decoder_numbers(device: torch.device) -> Numbers:
    """What the host thinks best for a video decoder on this device."""
    dtype = comfy.model_management.vae_dtype(device, COMPUTE_DTYPES)
    return Numbers(dtype, dtype, comfy.ops.disable_weight_init)


def attention(choice: str) -> Callable[..., torch.Tensor]:
    """The host's attention, or the one the user chose, if it is installed.

    Takes q, k, v of [b, n, l, d] and gives [b, n, l, d]; a mask is True where keys may be seen.
    """
    name = ATTENTIONS[choice]
    function = comfy.ldm.modules.attention.get_attention_function(name, default=None)
    if function is None:
        logger.warning("%s attention is not installed: using the host's default", choice)
        function = comfy.ldm.modules.attention.optimized_attention

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None, /
    ) -> torch.Tensor:
        heads = q.shape[1]
        return function(q, k, v, heads, mask, skip_reshape=True, skip_output_reshape=True)

    return attend


def transformer_patcher(module: torch.nn.Module, device: torch.device) -> Any:
    """Hand the transformer to the host's memory manager."""
    return _patcher(module, device, comfy.model_management.unet_offload_device())


def decoder_patcher(module: torch.nn.Module, device: torch.device) -> Any:
    """Hand a decoder to the host's memory manager."""
    return _patcher(module, device, comfy.model_management.vae_offload_device())


def judge_patcher(networks: Iterable[torch.nn.Module], device: torch.device) -> Any:
    """Hand a judge to the host's memory manager, in one piece and of the classic kind.

    Its layers are torch's own: the host can move them, but not load a part of them.
    """
    module = torch.nn.ModuleList(networks).eval()
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(module, load_device=device, offload_device=offload)


def _patcher(module: torch.nn.Module, device: torch.device, offload: torch.device) -> Any:
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:  # hosts with dynamic VRAM want to know the stored formats
        archive(module)
    patchers = comfy.model_patcher
    kind = getattr(patchers, "CoreModelPatcher", patchers.ModelPatcher)
    return kind(module.eval(), load_device=device, offload_device=offload)


@contextmanager
def loaded(
    patchers: Iterable[Any],
    working_bytes: int | Mapping[torch.device, int],
    *,
    whole: bool = False,
) -> Iterator[None]:
    """Have these models on their devices together, with room for `working_bytes` beside them.

    working_bytes: of each device, or one number for all. whole: all of their weights, also where
    the host was told to keep most of them away; and none of them once the run is over.

    What the run allocated is handed back to the device at the end, however it ends.

    Raises:
        RequestError: a device could not even hold `working_bytes` alone.
    """
    patchers = list(patchers)
    groups: dict[torch.device, list[Any]] = {}
    for patcher in patchers:
        groups.setdefault(patcher.load_device, []).append(patcher)
    for device, group in groups.items():
        needed = working_bytes if isinstance(working_bytes, int) else working_bytes.get(device, 0)
        _check_total(needed, device)
        comfy.model_management.load_models_gpu(group, memory_required=needed, force_full_load=whole)
    for patcher in patchers if whole else []:
        patcher.patch_model(device_to=patcher.load_device)
    try:
        yield
    finally:
        if whole:
            _unload(patchers)
        comfy.model_management.soft_empty_cache()


def load_again(patchers: Iterable[Any]) -> None:
    """Have the models of a run back on their devices after another one was used in its midst."""
    comfy.model_management.load_models_gpu(list(patchers))


def _check_total(needed: int, device: torch.device) -> None:
    total = comfy.model_management.get_total_memory(device)
    if needed > total:
        raise RequestError(
            f"This needs {gigabytes(needed)} on {device} besides the models",
            found=f"{gigabytes(total)} there are",
            fix="make it shorter, or choose a smaller width and height",
        )


def _unload(patchers: list[Any]) -> None:
    books = comfy.model_management.current_loaded_models
    for entry in [entry for entry in books if any(entry.model is p for p in patchers)]:
        entry.model_unload()
        books.remove(entry)


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes in use and bytes there are on a device, by all programs."""
    total = comfy.model_management.get_total_memory(device)
    return int(total - comfy.model_management.get_free_memory(device)), int(total)


def raw_latents(normalised: torch.Tensor) -> torch.Tensor:
    """What the transformer makes -> what the Wan2.2 VAE and LATENTs hold; [b, 48, f, h, w]."""
    return comfy.latent_formats.Wan22().process_out(normalised)


def normalised_latents(raw: torch.Tensor) -> torch.Tensor:
    """The inverse of `raw_latents`."""
    return comfy.latent_formats.Wan22().process_in(raw)


def to_socket(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy where the host keeps what travels between nodes."""
    return tensor.to(comfy.model_management.intermediate_device(), torch.float32).contiguous()


def can_be_rebuilt(patcher: Any, build: Callable[..., Any], *args: Any) -> None:
    """Tell the host how to make such a patcher anew: `build(*args, disable_dynamic=...)`.

    Its nodes that move a model to another device need that; older hosts ignore it.
    """
    patcher.cached_patcher_init = (build, args)


# ── Text encoder ──────────────────────────────────────────────────────────────────────────────


def wan_clip(
    weights: dict[str, torch.Tensor],
    config: Mapping[str, Any],
    spiece_model: bytes,
    device: str = DEFAULT,
    *,
    classic: bool = False,
) -> Any:
    """A host CLIP (type wan) from umT5 weights of any size.

    weights: names as in transformers; config: entries of the host's umT5 configuration that
    differ; spiece_model: the SentencePiece tokenizer; device: see `host_devices.device_names`.
    classic: without dynamic VRAM, in hosts that have it.
    """

    target = SimpleNamespace(
        params={},
        clip=comfy.text_encoders.wan.te(dtype_t5=comfy.utils.weight_dtype(weights)),
        tokenizer=comfy.text_encoders.wan.WanT5Tokenizer,
    )
    return comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={"spiece_model": spiece_model},
        parameters=comfy.utils.calculate_parameters(weights),
        state_dict=[weights],
        model_options={"umt5xxl_model_config": dict(config)} | text_options(device),
        **known(comfy.sd.CLIP, disable_dynamic=classic),
    )
