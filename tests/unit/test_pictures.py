"""Picture files and tensors on their way to a first frame."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hallo_live_core.errors import MediaError, ShapeError
from hallo_live_core.functional.first_frame import fit_picture
from hallo_live_core.media.picture import read_picture

ORIENTATION = 0x0112
"""The EXIF tag for how the camera was held."""


def drawn(height: int, width: int) -> np.ndarray:
    """A picture of which every quarter has its own colour."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, :, 0] = 200
    picture[:, : width // 2, 1] = 100
    return picture


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "gif", "jpg"])
def test_every_format_gives_the_picture(tmp_path, ending):
    file = tmp_path / f"picture.{ending}"
    options = {"quality": 100, "lossless": True} if ending in ("webp", "jpg") else {}
    Image.fromarray(drawn(32, 48)).save(file, **options)
    picture = read_picture(file)
    assert picture.shape == (32, 48, 3) and picture.dtype == torch.uint8
    assert np.abs(picture.numpy().astype(int) - drawn(32, 48))[4:12, 4:12].max() <= 4


def test_a_picture_taken_on_its_side_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90 degrees clockwise to see it upright
    turned = Image.fromarray(np.rot90(drawn(32, 48)).copy())
    turned.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png").numpy(), drawn(32, 48))


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.fromarray(drawn(8, 8)), Image.fromarray(drawn(8, 8)[::-1].copy())]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    assert np.array_equal(read_picture(tmp_path / "moving.png").numpy(), drawn(8, 8))


def test_grey_pictures_of_16_bits_keep_their_shades(tmp_path):
    shades = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    picture = read_picture(tmp_path / "deep.png")
    assert np.array_equal(picture[..., 0].numpy(), shades >> 8)


def test_transparent_parts_become_white(tmp_path):
    clear = np.dstack([drawn(32, 32), np.zeros((32, 32), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    picture = read_picture(tmp_path / "clear.png")
    assert picture.shape == (32, 32, 4)
    assert (fit_picture(picture, 32, 32) == 1).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


BAD = {
    "text": (b"hello, I am a picture", "is not a picture"),
    "empty": (b"", "is not a picture"),
    "bomb": (bomb(9_000, 9_000), "at most 80 million pixels"),
    "great bomb": (bomb(60_000, 60_000), "too large"),
    "truncated": (bomb(64, 64), "cannot be read as a picture"),
    "other program's": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_in_one_line(tmp_path, content, words):
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(MediaError, match=words) as refused:
        read_picture(file)
    assert "bad.png" in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(MediaError, match="There is no file"):
            read_picture(path)


@settings(max_examples=60, deadline=None)
@given(
    ending=st.sampled_from(["png", "jpg", "webp", "gif", "tiff"]),
    cut=st.floats(0, 1),
    noise=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
)
def test_damaged_files_are_read_or_refused_but_nothing_else(tmp_path_factory, ending, cut, noise):
    file = tmp_path_factory.mktemp("damaged") / f"picture.{ending}"
    Image.fromarray(drawn(24, 24)).save(file)
    content = bytearray(file.read_bytes())
    for place, value in noise:
        content[min(int(place * len(content)), len(content) - 1)] = value
    file.write_bytes(content[: int(cut * len(content))])
    with contextlib.suppress(MediaError):
        picture = read_picture(file)
        assert picture.dtype == torch.uint8 and picture.shape[2] in (3, 4)


# ── Fitting ────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_of_the_right_size_is_only_rescaled_in_value():
    picture = torch.from_numpy(drawn(32, 64))
    fitted = fit_picture(picture, 32, 64)
    assert torch.equal(fitted, picture.movedim(-1, 0).float() / 255 * 2 - 1)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 32), (480, 960)])
def test_what_the_shape_leaves_over_is_cut_off_on_both_sides_alike(size):
    height, width = size
    wide, tall = torch.zeros(60, 600, 3), torch.zeros(600, 60, 3)
    wide[:, 295:305], tall[295:305] = 1, 1  # a line in the very middle
    for picture in (wide, tall):
        fitted = fit_picture(picture, height, width)
        assert fitted.shape == (3, height, width) and fitted.dtype == torch.float32
        torch.testing.assert_close(fitted, fitted.flip(1, 2), rtol=0, atol=1e-4)
        assert fitted[:, height // 2, width // 2].min() > 0.9


def test_nothing_is_stretched():
    rows, columns = torch.meshgrid(torch.arange(200), torch.arange(500), indexing="ij")
    circle = ((rows - 99.5) ** 2 + (columns - 249.5) ** 2 < 60**2).float()
    fitted = fit_picture(circle[..., None].repeat(1, 1, 3), 64, 96)[0] > 0
    assert abs(int(fitted.any(dim=0).sum()) - int(fitted.any(dim=1).sum())) <= 1


def test_shrinking_averages_instead_of_skipping():
    stripes = torch.zeros(256, 256, 3)
    stripes[:, ::2] = 1
    assert fit_picture(stripes, 32, 32).abs().max() < 0.1  # middle grey, not black or white


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(8, 8),
        torch.zeros(8, 8, 1),
        torch.zeros(1, 8, 8, 3),
        torch.zeros(0, 8, 3),
        torch.full((8, 8, 3), float("nan")),
    ],
)
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(ShapeError, match="picture"):
        fit_picture(picture, 32, 32)
