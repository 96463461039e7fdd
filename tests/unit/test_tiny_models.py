import pytest
import torch

from hallo_live_core.checkpoints import load_tokenizer, load_transformer, write_tiny_models
from hallo_live_core.checkpoints.catalog import CATALOG, TEXT_ENCODER, TRANSFORMER, locate
from hallo_live_core.checkpoints.tiny_tokenizer import PROMPTS
from hallo_live_core.devices import Placement
from hallo_live_core.engine import HalloLive
from hallo_live_core.errors import CheckpointError
from hallo_live_core.prompts import check_prompt
from hallo_live_core.types import Request

MAX_BYTES = 12_000_000


@pytest.fixture(scope="module", params=[0, 1])
def models(request, tmp_path_factory):
    return write_tiny_models(tmp_path_factory.mktemp("tiny"), seed=request.param)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def clip(models, prompt, *, decoder="wan", seed=0, seconds=2):
    engine = HalloLive.load(models, placement=Placement.on("cpu"), decoder=decoder)
    request = Request(prompt=prompt, seconds=seconds, seed=seed, height=64, width=64)
    chunks = list(engine.stream(request))
    frames = torch.cat([chunk.frames for chunk in chunks]).float()
    return frames, torch.cat([chunk.samples for chunk in chunks])


def test_the_set_is_complete_and_small(models):
    assert locate(models, CATALOG).keys() == {file.key for file in CATALOG}
    assert sum(map(len, contents(models).values())) < MAX_BYTES


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    one, two, other = (
        contents(write_tiny_models(tmp_path / name, seed=seed))
        for name, seed in (("one", 3), ("two", 3), ("other", 4))
    )
    assert one == two
    weights = [name for name in one if not name.startswith("google")]
    assert one.keys() == other.keys() and all(one[name] != other[name] for name in weights)


@pytest.mark.parametrize("decoder", ["wan", "taehv"])
def test_pictures_have_colours_and_shapes_and_they_move(models, decoder):
    frames, _ = clip(models, PROMPTS[0], decoder=decoder)
    assert frames.shape == (45, 64, 64, 3)
    mean = frames.mean(dim=(0, 1, 2))
    assert ((mean > 60) & (mean < 200)).all(), "no colour dominates or lacks"
    assert 15 < frames.std() < 90, "neither flat nor black and white"
    assert ((frames == 0) | (frames == 255)).float().mean() < 0.2, "not saturated"
    assert (frames[1:] - frames[:-1]).abs().mean() > 1, "moves"
    assert (frames - frames.mean(dim=(1, 2), keepdim=True)).std() > 5, "has shapes"


def test_sound_is_audible_all_the_time_and_never_clips(models):
    _, samples = clip(models, PROMPTS[0])
    assert samples.abs().max() < 0.999
    for part in samples.chunk(8):
        assert 0.05 < part.pow(2).mean().sqrt() < 0.3


def test_prompt_and_seed_matter_and_nothing_else_does(models):
    frames, samples = clip(models, PROMPTS[0], seconds=1)
    again = clip(models, PROMPTS[0], seconds=1)
    assert torch.equal(frames, again[0]) and torch.equal(samples, again[1])
    for prompt, seed in ((PROMPTS[1], 0), (PROMPTS[0], 1)):
        other = clip(models, prompt, seed=seed, seconds=1)
        assert (frames - other[0]).abs().mean() > 0.5
        assert (samples - other[1]).abs().mean() > 1e-3


def test_the_transformer_is_published_in_bf16_and_has_two_widths(models):
    module = load_transformer(locate(models, [TRANSFORMER])["transformer"])
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module.config.video.dim != module.config.audio.dim
    assert module.config.video.head_dim == module.config.audio.head_dim == 128


def test_inside_comfyui_the_files_go_where_its_loaders_look(tmp_path):
    (tmp_path / "models").mkdir()
    root = write_tiny_models(tmp_path, comfyui=True)
    assert root == tmp_path / "models"
    assert contents(root).keys() == {
        "diffusion_models/hallolive_dit.safetensors",
        "text_encoders/google/umt5-xxl/spiece.model",
        "text_encoders/google/umt5-xxl/tokenizer.json",
        "text_encoders/models_t5_umt5-xxl-enc-bf16.pth",
        "vae/Wan2.2_VAE.pth",
        "vae/best_netG.pt",
        "vae/v1-16.pth",
        "vae_approx/taew2_2.safetensors",
    }
    assert locate(root, [TRANSFORMER, TEXT_ENCODER])


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not a ComfyUI folder"):
        write_tiny_models(tmp_path, comfyui=True)


def test_example_prompts_are_good_prompts_and_are_short_in_tokens(models):
    tokenize = load_tokenizer(models / "google/umt5-xxl/tokenizer.json")
    for prompt in PROMPTS:
        check_prompt(prompt)
        assert len(tokenize(prompt)) < 256
