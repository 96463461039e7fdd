"""A pack that only tests install beside ours: what core lacks to look at values in the host."""

import gc
import uuid
from pathlib import Path
from unittest import mock

import comfy.ldm.wan.vae2_2
import comfy.sd
import comfy.utils
import folder_paths
import torch

TINY = {"dim": 4, "dec_dim": 8, "dim_mult": [1, 2, 2, 2]}
"""Sizes of the video VAE that `make-tiny` writes."""


class TestTinyCoreVAE:
    """Core's Wan2.2 VAE with all that core does around it, at the size of the tiny file.

    Core takes the widths for granted, so they are replaced while its own loader runs.
    """

    RETURN_TYPES = ("VAE",)
    FUNCTION = "load"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {"name": (folder_paths.get_filename_list("vae"),)}}

    def load(self, name):
        module, build = comfy.ldm.wan.vae2_2, comfy.ldm.wan.vae2_2.WanVAE
        weights = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("vae", name))
        with mock.patch.object(module, "WanVAE", lambda **sizes: build(**(sizes | TINY))):
            return (comfy.sd.VAE(sd=weights),)


class TestImage:
    """An IMAGE of any shape: a slope of colours, or a value that is no number."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        sizes = {name: ("INT", {"default": 1}) for name in ("batch", "height", "width", "channels")}
        return {"required": sizes, "optional": {"fill": ("FLOAT", {"default": -1.0})}}

    def make(self, batch, height, width, channels, fill=-1.0):
        shape = (batch, height, width, channels)
        slope = torch.linspace(0, 1, height * width * channels).reshape(shape[1:])
        return (slope.expand(shape) if fill < 0 else torch.full(shape, torch.nan),)


class TestKeep:
    """Writes whatever arrives to a file: tensors, or dicts and lists of them."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    CATEGORY = "test"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {"value": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):  # noqa: N802 - the host's name
        return True

    def keep(self, value):
        file = Path(folder_paths.get_temp_directory()) / f"kept_{uuid.uuid4().hex}.pt"
        file.parent.mkdir(exist_ok=True)
        torch.save(value, file)
        return {"ui": {"kept": [{"filename": file.name, "subfolder": "", "type": "temp"}]}}


class TestTensorBytes:
    """How many bytes of tensors the host's process holds."""

    RETURN_TYPES = ()
    FUNCTION = "count"
    CATEGORY = "test"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        return {"required": {"again": ("INT", {"default": 0})}}

    def count(self, again):
        gc.collect()
        storages = {}
        for thing in gc.get_objects():
            if type(thing) in (torch.Tensor, torch.nn.Parameter):
                storage = thing.untyped_storage()
                storages[storage._cdata] = storage.nbytes()
        return {"ui": {"bytes": [sum(storages.values())]}}


NODES = (TestTinyCoreVAE, TestImage, TestKeep, TestTensorBytes)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
