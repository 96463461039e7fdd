import pytest
import torch

from hallo_live_core.functional.masks import BlockCausal, Prefix


def picture(rule, queries, keys):
    rows = rule.picture(queries, keys)
    return "\n".join("".join("#" if seen else "." for seen in row) for row in rows)


def test_each_block_sees_itself_and_what_came_before():
    assert picture(BlockCausal(2, 2), 4, 4) == "##..\n##..\n####\n####"


def test_video_may_hear_two_audio_latents_ahead():
    rule = BlockCausal(q=1, kv=3, lookahead=2)
    assert picture(rule, 3, 9) == "#####....\n########.\n#########"


def test_a_lookahead_may_reach_over_several_blocks():
    rule = BlockCausal(q=1, kv=2, lookahead=3)
    assert picture(rule, 3, 6) == "#####.\n######\n######"


def test_an_incomplete_last_block_sees_everything_there_is():
    assert picture(BlockCausal(2, 2), 3, 3) == "##.\n##.\n###"


def test_the_reference_shows_zero_keys_at_the_end_of_a_clip():
    rule = BlockCausal(q=1, kv=3, lookahead=2, zero_padding=True)
    assert rule.prefixes(3, 9) == (Prefix(0, 1, 5), Prefix(1, 2, 8), Prefix(2, 3, 9, zeros=2))
    assert rule.picture(3, 9).shape == (3, 128)


def test_the_reference_has_no_zero_keys_to_show_when_the_count_is_a_multiple_of_128():
    rule = BlockCausal(q=1, kv=64, lookahead=10, zero_padding=True)
    assert all(prefix.zeros == 0 for prefix in rule.prefixes(2, 128))


@pytest.mark.parametrize("lookahead", [0, 1, 7])
def test_prefixes_and_picture_say_the_same(lookahead):
    rule = BlockCausal(3, 2, lookahead)
    rows = rule.picture(12, 8)
    for prefix in rule.prefixes(12, 8):
        expected = torch.arange(8) < prefix.keys
        assert all(torch.equal(row, expected) for row in rows[prefix.first : prefix.end])
