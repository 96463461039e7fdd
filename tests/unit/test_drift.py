"""Each part of the light profile leads away from the plain path, but not further each second."""

from benchmarks.drift import BLOCKS, OPENING, drift
from hallo_live_core.checkpoints.tiny_weights import TRANSFORMER


def test_five_blocks_stay_close_in_8_bits():
    table = drift(TRANSFORMER, 4, 6)
    assert all(len(seconds) == BLOCKS for seconds in table.values())
    opening = table.pop(f"opening of {OPENING}")
    assert set(table) == {"fp8 weights", "fp8 cache", "both"}
    for seconds in table.values():
        assert all(video < 0.1 and sound < 0.1 for video, sound in seconds), table
    assert table["fp8 cache"][0] == (0, 0)  # a first block has no past
    assert all(0 < video < 0.02 and 0 < sound < 0.02 for video, sound in table["fp8 cache"][1:])
    assert all(video > 0 for video, _ in table["fp8 weights"])
    assert 0 < opening[-1][0] < opening[0][0], "another clip, which comes closer again"
