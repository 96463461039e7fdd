"""From a picture to a clip that begins with it: engine and terminal, with tiny models."""

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from hallo_live_core import HalloLive, Placement, Request, load_first_frame
from hallo_live_core.checkpoints.load import load_video_encoder
from hallo_live_core.cli import main
from hallo_live_core.decoding.video import VideoStream
from hallo_live_core.errors import CheckpointError, RequestError, ShapeError
from hallo_live_core.functional.first_frame import fit_picture
from hallo_live_core.serving.app import request_from_json

PROMPT = "A woman says, <S>Hello there.<E>"
HEIGHT, WIDTH = 64, 96
CPU = Placement.on("cpu")
REQUEST = Request(prompt=PROMPT, seconds=2, height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    rows, columns = np.mgrid[0:200, 0:300]
    colours = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1)
    return torch.from_numpy(colours.astype(np.uint8))


@pytest.fixture(scope="module")
def engine(tiny_models) -> HalloLive:
    return HalloLive.load(tiny_models, placement=CPU)


@pytest.fixture(scope="module")
def request_with_picture(tiny_models, picture) -> Request:
    latent = load_first_frame(tiny_models, picture, REQUEST, placement=CPU)
    return Request(prompt=PROMPT, seconds=2, height=HEIGHT, width=WIDTH, first_frame=latent)


def test_the_first_frame_of_the_clip_is_exactly_the_decoded_picture(
    engine, tiny_models, request_with_picture
):
    latent = request_with_picture.first_frame
    with torch.inference_mode():
        alone = VideoStream(engine._video_decoder, device=CPU.decoder, dtype=CPU.decoder_dtype)
        decoded = alone.push(latent)[0]
        chunks = list(engine.stream(request_with_picture))
    assert chunks[0].frames.shape == (1, HEIGHT, WIDTH, 3)
    assert torch.equal(chunks[0].frames, decoded)
    assert sum(len(chunk.frames) for chunk in chunks) == 45


def test_the_latent_is_that_of_the_fitted_picture(tiny_models, picture, request_with_picture):
    encoder = load_video_encoder(tiny_models / "Wan2.2_VAE.pth", dtype=torch.float32)
    fitted = fit_picture(picture, HEIGHT, WIDTH)
    expected = encoder.encode(fitted[None, None]).normalised
    assert request_with_picture.first_frame.shape == (1, 1, 48, HEIGHT // 16, WIDTH // 16)
    torch.testing.assert_close(request_with_picture.first_frame, expected)


def test_without_a_picture_the_clip_is_another_one(engine, request_with_picture):
    with_it, without = (
        torch.cat([b.video for b in engine.sample(r)], dim=1)
        for r in (request_with_picture, REQUEST)
    )
    assert not torch.equal(with_it[:, -1], without[:, -1])


def test_a_latent_of_another_size_is_refused_before_anything_is_denoised(
    engine, request_with_picture
):
    wrong = Request(prompt=PROMPT, seconds=1, first_frame=request_with_picture.first_frame)
    passes = []
    with pytest.raises(ShapeError, match="another size than the clip"):
        next(engine.sample(wrong, on_progress=passes.append))
    assert not passes


def test_requests_stay_comparable(request_with_picture):
    assert request_with_picture == REQUEST
    assert "first_frame" not in repr(request_with_picture)


def test_a_folder_without_the_encoder_says_which_file_is_missing(tmp_path, picture):
    with pytest.raises(CheckpointError, match=r"Wan2\.2_VAE"):
        load_first_frame(tmp_path, picture, REQUEST, placement=CPU)


# ── Terminal ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def generate(tiny_models, tmp_path):
    def call(*arguments) -> int:
        fixed = ["--models", str(tiny_models), "--device", "cpu", "-o", str(tmp_path / "c.mp4")]
        size = ["--size", f"{HEIGHT}x{WIDTH}", "--seconds", "1"]
        return main(["generate", PROMPT, *fixed, *size, *map(str, arguments)])

    return call


@pytest.mark.parametrize("decoder", ["wan", "taehv"])
def test_the_terminal_makes_a_clip_from_a_picture(generate, tmp_path, picture, capsys, decoder):
    Image.fromarray(picture.numpy()).save(tmp_path / "face.png")
    assert generate("--image", tmp_path / "face.png", "--decoder", decoder) == 0
    assert "not trained to begin with a given picture" in capsys.readouterr().err
    with av.open(str(tmp_path / "c.mp4")) as clip:
        assert "first_frame=given" in clip.metadata["comment"]
        assert sum(1 for _ in clip.decode(video=0)) == 21


def test_a_bad_picture_is_refused_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "bad.png").write_text("no picture")
    command = ["generate", PROMPT, "--models", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--image", str(tmp_path / "bad.png")]) == 1
    message = capsys.readouterr().err.strip()
    assert "bad.png is not a picture" in message and "\n" not in message


def test_the_server_takes_no_pictures_and_says_what_it_takes():
    with pytest.raises(RequestError, match="Unknown field") as refused:
        request_from_json({"prompt": PROMPT, "image": "face.png"}, Request())
    assert "'image'" in str(refused.value) and "prompt" in str(refused.value)


def test_with_a_prompt_that_changes_the_clip_still_begins_with_the_picture(
    engine, request_with_picture
):
    wanted = replace(request_with_picture, seconds=4, window_blocks=2, looks_back=True)
    then = "He says, <S>Goodbye.<E>"
    first, *rest = engine.sample(wanted, next_said=lambda block: then if block == 2 else None)
    given = request_with_picture.first_frame
    assert torch.equal(first.video[:, :1], given)
    assert len(rest) == 3
    assert not any(torch.equal(block.video[:, :1], given) for block in rest)
