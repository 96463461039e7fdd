import pytest

from hallo_live_core.checkpoints import catalog
from hallo_live_core.checkpoints.catalog import CATALOG, locate
from hallo_live_core.errors import CheckpointError


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_are_found_anywhere_below_the_directory(tmp_path):
    put(tmp_path, "a/b/Wan2.2_VAE.pth", "hallolive_dit.pt")
    found = locate(tmp_path, [catalog.VIDEO_VAE, catalog.TRANSFORMER])
    assert found == {
        "video_vae": tmp_path / "a/b/Wan2.2_VAE.pth",
        "transformer": tmp_path / "hallolive_dit.pt",
    }


def test_the_published_name_wins_over_other_names_and_short_paths_over_long_ones(tmp_path):
    put(tmp_path, "hallolive_dit.safetensors", "x/y/hallolive_dit.pt", "x/hallolive_dit.pt")
    found = locate(tmp_path, [catalog.TRANSFORMER])
    assert found["transformer"] == tmp_path / "x/hallolive_dit.pt"


def test_a_tokenizer_of_another_model_is_not_taken(tmp_path):
    put(tmp_path, "llama/tokenizer.json")
    with pytest.raises(CheckpointError, match=r"no google/umt5-xxl/tokenizer\.json"):
        locate(tmp_path, [catalog.TOKENIZER])
    put(tmp_path, "text/umt5-xxl/spiece.model")
    assert locate(tmp_path, [catalog.TOKENIZER])["tokenizer"].name == "spiece.model"


def test_everything_that_is_missing_is_listed_at_once_with_its_origin(tmp_path):
    put(tmp_path, "v1-16.pth")
    with pytest.raises(CheckpointError) as caught:
        locate(tmp_path, [catalog.VIDEO_VAE, catalog.AUDIO_VAE, catalog.VOCODER])
    message = str(caught.value)
    assert "Wan2.2_VAE.pth" in message and "huggingface.co/Wan-AI/Wan2.2-TI2V-5B" in message
    assert "2.8 GB" in message and "v1-16" not in message
    assert "best_netG.pt" in message and "not for commercial use" in message


def test_links_are_followed_and_circles_do_no_harm(tmp_path):
    put(tmp_path, "real/taew2_2.safetensors")
    models = tmp_path / "models"
    models.mkdir()
    (models / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (models / "circle").symlink_to(models, target_is_directory=True)
    found = locate(models, [catalog.TAEHV])
    assert found["taehv"] == models / "linked/taew2_2.safetensors"


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no models directory"):
        locate(tmp_path / "nowhere", CATALOG)


def test_the_weights_of_mmaudio_are_marked_as_not_for_commercial_use():
    marked = {file.key for file in CATALOG if file.non_commercial}
    assert marked == {"audio_vae", "vocoder"}
    assert all(("NC" in file.licence) == file.non_commercial for file in CATALOG)


def test_every_file_says_what_it_is_for_and_where_it_comes_from():
    assert len({file.key for file in CATALOG}) == len(CATALOG)
    for file in CATALOG:
        assert file.purpose and file.licence and file.url.startswith("https://")
        assert file.sha256 is None or len(file.sha256) == 64
