"""Core's own loader and ours with one random Wan2.2 VAE of the published widths; prints JSON.

Run as `python full_width_vae.py COMFYUI ROOT` in a process of its own, since it takes 5 GB: core
keeps encoder and decoder in float32, and its copy goes before ours is made.
"""

import importlib
import json
import sys
from pathlib import Path

import torch

LATENTS, SIDE = 2, 4
"""Five frames of 64 x 64 pixels."""


def random_weights(root: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the published file, in bf16, so scaled that signals keep their size."""
    keys = json.loads((root / "tests" / "keys" / "wan22_vae.json").read_text(encoding="utf-8"))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in keys["tensors"].items():
        if name.endswith("gamma"):
            weights[name] = torch.ones(shape, dtype=torch.bfloat16)
            continue
        fan_in = max(1, torch.Size(shape[1:]).numel())
        scale = fan_in**-0.5 if len(shape) > 1 else 0.05
        weights[name] = torch.randn(shape, generator=generator).mul_(scale).bfloat16()
    return weights


def core_decodes(weights: dict[str, torch.Tensor], raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What core makes of raw latents [1, 48, f, h, w]; and of those pictures again."""
    vae = importlib.import_module("comfy.sd").VAE(sd=weights, dtype=torch.float32)
    images = vae.decode(raw)[0]
    return images, vae.encode(images[:1])


def main() -> None:
    comfyui, root = sys.argv[1:3]
    sys.argv = sys.argv[:1]
    sys.path[:0] = [comfyui, root]
    importlib.import_module("comfy.options").enable_args_parsing(False)
    importlib.import_module("comfy.cli_args").args.cpu = True
    core = importlib.import_module("hallo_live_core.models.video_vae.latents")
    build = importlib.import_module("hallo_live_core.checkpoints.build")
    with torch.inference_mode():
        weights = random_weights(Path(root))
        normalised = torch.randn(1, LATENTS, 48, SIDE, SIDE) / 2
        raw = core.LatentScale.on(None).restore(normalised).transpose(1, 2)
        theirs, their_latent = core_decodes(dict(weights), raw)
        at = {"dtype": torch.float32}
        decoder = build.video_decoder_from_state_dict(dict(weights), "random", **at)
        ours, _ = decoder.decode(normalised, decoder.initial_state(1, SIDE, SIDE))
        ours = (ours[0].movedim(1, -1) + 1) / 2
        encoder = build.video_encoder_from_state_dict(weights, "random", **at)
        picture = theirs[:1].movedim(-1, 1)[None] * 2 - 1
        our_latent = encoder.encode(picture).raw.transpose(1, 2)
    seen = {
        "shape": list(theirs.shape),
        "spread": theirs.std().item(),
        "decode_error": (ours - theirs).abs().max().item(),
        "encode_error": (our_latent - their_latent).abs().max().item(),
        "latent_spread": their_latent.std().item(),
    }
    sys.stdout.write("\n" + json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
