import pytest

from hallo_live_core.errors import PromptError
from hallo_live_core.functional.script import Script, ScriptLine
from hallo_live_core.live.lines import MAX_WAITING, Lines, TooManyLinesError
from hallo_live_core.prompts import respeak

PROMPT = "A man nods. <S>One.<E> He smiles. <S>Two.<E> <AUDCAP>A deep voice.<ENDAUDCAP>"
SHORT = "A man nods. <S>{}<E> He smiles.  <AUDCAP>A deep voice.<ENDAUDCAP>"


def test_other_words_take_the_place_of_the_first_speech_and_the_rest_goes():
    assert respeak(PROMPT, " Three. ") == SHORT.format("Three.")


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ("A man nods.", "A man nods. <S>Hi.<E>"),
        ("A man. <AUDCAP>Deep.<ENDAUDCAP>", "A man. <S>Hi.<E> <AUDCAP>Deep.<ENDAUDCAP>"),
    ],
)
def test_in_a_silent_scene_the_words_stand_before_the_sound(prompt, result):
    assert respeak(prompt, "Hi.") == result


def test_words_with_tags_are_a_prompt_of_their_own():
    assert respeak(PROMPT, "A cat. <S>Meow.<E>") == "A cat. <S>Meow.<E>"
    with pytest.raises(PromptError, match="<S>"):
        respeak(PROMPT, "A cat. <S>Meow.")
    with pytest.raises(PromptError, match="empty"):
        respeak(PROMPT, "  ")


def test_a_line_is_said_at_the_next_border_and_held_while_it_takes():
    lines = Lines(PROMPT)
    assert lines(1) is None
    long = "This sentence has quite a number of words and takes more than three seconds."
    lines.say(long)
    lines.say("Short.")
    said = [lines(block) for block in range(2, 12)]
    assert said[0] == respeak(PROMPT, long)
    assert said.index(respeak(PROMPT, "Short.")) in (5, 6)
    assert sum(line is not None for line in said) == 2 and lines.num_waiting == 0


def test_a_script_goes_on_where_nobody_says_anything():
    lines = Lines("a", Script([ScriptLine("a", 2), ScriptLine("b", 2), ScriptLine("c")]))
    assert [lines(1), lines(2)] == [None, "b"]
    lines.say("d <S>d<E>")
    assert [lines(3), lines(4), lines(5)] == ["d <S>d<E>", "c", None]


def test_only_so_many_lines_may_wait():
    lines = Lines(PROMPT)
    for _ in range(MAX_WAITING):
        lines.say("Again.")
    with pytest.raises(TooManyLinesError, match="waiting"):
        lines.say("Again.")


def test_what_cannot_be_said_is_refused_at_once():
    with pytest.raises(PromptError):
        Lines(PROMPT).say("<S>open")
