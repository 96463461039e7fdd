import av
import numpy as np
import pytest
import torch

from hallo_live_core.clock import MediaClock
from hallo_live_core.errors import MediaError
from hallo_live_core.media.encoders import BT709
from hallo_live_core.media.mp4 import Mp4Writer

from .live_media import one_chunk

CLOCK = MediaClock()
BT601 = 5
"""Named as the target of RGB, where it means nothing: older PyAV else ignores the source."""


def grey(frames: int, level: int = 128) -> torch.Tensor:
    return torch.full((frames, 32, 64, 3), level, dtype=torch.uint8)


def decode(path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        frames = [
            f.reformat(format="rgb24", src_colorspace=BT709, dst_colorspace=BT601).to_ndarray()
            for f in container.decode(video=0)
        ]
    with av.open(str(path)) as container:
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    return np.stack(frames), sound


def test_picture_and_sound_decode_to_equal_length_to_the_sample(tmp_path):
    with Mp4Writer(tmp_path / "clip.mp4") as writer:
        writer.write(one_chunk(grey(1), torch.zeros(15_360)))
        for _ in range(29):
            writer.write(one_chunk(grey(4), torch.zeros(2_000)))
    frames, sound = decode(tmp_path / "clip.mp4")
    assert len(frames) == 117
    assert len(sound) == 78_000 == CLOCK.samples_for_frames(117)


def test_a_click_comes_out_at_the_sample_where_it_went_in(tmp_path):
    samples = torch.zeros(16_000)
    samples[9_000] = 1.0
    with Mp4Writer(tmp_path / "clip.mp4") as writer:
        writer.write(one_chunk(grey(24), samples))
    _, sound = decode(tmp_path / "clip.mp4")
    assert abs(int(np.abs(sound).argmax()) - 9_000) <= 1


def test_an_exception_still_leaves_a_playable_clip(tmp_path):
    def dying_run():
        with Mp4Writer(tmp_path / "c.mp4") as writer:
            writer.write(one_chunk(grey(5), torch.zeros(15_360)))
            raise RuntimeError("decoder died")

    with pytest.raises(RuntimeError, match="decoder died"):
        dying_run()
    frames, sound = decode(tmp_path / "c.mp4")
    assert len(frames) == 5 and len(sound) == CLOCK.samples_for_frames(5)
    assert [p.name for p in tmp_path.iterdir()] == ["c.mp4"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sound_that_is_no_number_is_named_and_what_was_made_before_stays(tmp_path, value):
    bad = torch.zeros(800).index_fill(0, torch.tensor([7]), value)
    with Mp4Writer(tmp_path / "clip.mp4") as writer:
        writer.write(one_chunk(grey(3), torch.zeros(2000)))
        with pytest.raises(MediaError, match=r"no numbers\. Found: 1 of 800 samples"):
            writer.write(one_chunk(grey(1), bad))
    frames, _ = decode(tmp_path / "clip.mp4")
    assert len(frames) == 3


def test_the_growing_file_plays_before_the_clip_is_finished(tmp_path):
    writer = Mp4Writer(tmp_path / "clip.mp4")
    for _ in range(20):
        writer.write(one_chunk(grey(12), torch.zeros(8_000)))
    frames, _ = decode(writer.partial_path)
    assert len(frames) > 24
    writer.close()
    assert not writer.partial_path.exists()


def test_a_writer_that_never_got_a_frame_leaves_no_file(tmp_path):
    with Mp4Writer(tmp_path / "clip.mp4") as writer:
        pass
    assert writer.close() is None
    assert not list(tmp_path.iterdir())


def test_colours_survive_within_the_accuracy_of_yuv420(tmp_path):
    picture = torch.zeros(8, 32, 64, 3, dtype=torch.uint8)
    picture[..., :32, 0] = 200
    picture[..., 32:, 2] = 120
    with Mp4Writer(tmp_path / "clip.mp4") as writer:
        writer.write(one_chunk(picture, torch.zeros(100)))
    frames, _ = decode(tmp_path / "clip.mp4")
    for column in (8, 56):
        expected = picture[0, 16, column].numpy().astype(int)
        assert np.abs(frames[4, 16, column].astype(int) - expected).max() <= 6


def test_metadata_is_stored_in_the_finished_file(tmp_path):
    with Mp4Writer(tmp_path / "clip.mp4", metadata={"prompt": "She says hello."}) as writer:
        writer.write(one_chunk(grey(2), torch.zeros(100)))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.metadata["prompt"] == "She says hello."


def test_a_folder_that_cannot_be_written_is_named_and_no_file_promised(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    writer = Mp4Writer(tmp_path / "file" / "clip.mp4")
    with pytest.raises(MediaError, match=r"clip\.mp4.*Fix: check the free space and the folder\.$"):
        writer.write(one_chunk(grey(1), torch.zeros(10)))


def test_a_closed_writer_refuses_more(tmp_path):
    with Mp4Writer(tmp_path / "clip.mp4") as writer:
        writer.write(one_chunk(grey(1), torch.zeros(10)))
    with pytest.raises(MediaError, match="finished"):
        writer.write(one_chunk(grey(1), torch.zeros(10)))
