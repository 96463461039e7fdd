import pytest

from hallo_live_core.errors import PromptError
from hallo_live_core.prompts import (
    check_prompt,
    compose_prompt,
    estimate_speech_seconds,
    file_stem,
    speech_of,
    speech_overrun,
)

GOOD = "A man. <S>Hello there.<E> He nods. <S>Bye.<E> <AUDCAP>Calm voice.<ENDAUDCAP>"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "No tags at all",
        "a < b and b > a, <b>bold</b>",
        "<AUDCAP>wind<ENDAUDCAP> <S>first the sound<E>",
        "&lt;S&gt;escaped&lt;E&gt; and &amp;lt;S&amp;gt;twice&amp;lt;E&amp;gt;",
    ],
)
def test_a_prompt_with_matching_tags_is_accepted(text):
    check_prompt(text)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "&nbsp;"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(PromptError, match="empty"):
        check_prompt(text)


@pytest.mark.parametrize(
    ("text", "tag", "position", "hint"),
    [
        ("A man. <S>Hello", "<S>", 8, "never closed"),
        ("A man. Hello<E>", "<E>", 13, "closes nothing"),
        ("<E>Hello<S>", "<E>", 1, "put <S> before"),
        ("<S>one <S>two<E><E>", "<S>", 8, "do not nest"),
        ("<S>one <AUDCAP>two<ENDAUDCAP><E>", "<AUDCAP>", 8, "close that with <E>"),
        ("<AUDCAP>wind<E>", "<E>", 13, "close that with <ENDAUDCAP>"),
        ("x<ENDAUDCAP>", "<ENDAUDCAP>", 2, "closes nothing"),
        ("<S>a<E><E>", "<E>", 8, "closes nothing"),
        ("<AUDCAP>wind", "<AUDCAP>", 1, "add <ENDAUDCAP>"),
    ],
)
def test_a_misplaced_tag_is_named_with_its_position(text, tag, position, hint):
    with pytest.raises(PromptError) as caught:
        check_prompt(text)
    message = str(caught.value)
    assert f"The tag {tag} at character {position} " in message
    assert hint in message
    assert "\n" not in message


@pytest.mark.parametrize("tag", ["<s>", "</S>", "< S >", "<audcap>", "<EndAudCap>", "</s>"])
def test_a_misspelt_tag_is_refused_with_the_right_spelling(tag):
    with pytest.raises(PromptError, match="in lower case <s> is a control token") as caught:
        check_prompt(f"Hi {tag}there")
    spelling = "".join(c for c in tag if c.isalpha()).upper()
    assert f"write <{spelling}>" in str(caught.value)


def test_the_message_shows_the_text_around_the_mistake():
    text = "a" * 100 + " left <E> right " + "b" * 100
    with pytest.raises(PromptError, match=r"'….* left <E> right b+…'"):
        check_prompt(text)


def test_parts_compose_to_a_prompt_in_the_order_scene_speech_sound():
    prompt = compose_prompt(
        scene=" A man in an office. ",
        speech=["Hello.", " ", "How are you?"],
        voice="Warm male voice",
        ambience="quiet hum",
    )
    assert prompt == (
        "A man in an office. <S>Hello.<E> <S>How are you?<E> "
        "<AUDCAP>Warm male voice. quiet hum.<ENDAUDCAP>"
    )
    assert speech_of(prompt) == ["Hello.", "How are you?"]


def test_a_scene_alone_is_a_prompt():
    assert compose_prompt(scene="A quiet lake") == "A quiet lake"


def test_parts_may_not_bring_tags_of_their_own():
    with pytest.raises(PromptError, match="not allowed in the part 'speech'"):
        compose_prompt(scene="A man", speech=["<S>Hello<E>"])


def test_parts_that_are_all_empty_are_refused():
    with pytest.raises(PromptError, match="empty"):
        compose_prompt(scene=" ", speech=["", "  "])


def test_speech_is_found_in_order_and_without_tags():
    assert speech_of(GOOD) == ["Hello there.", "Bye."]
    assert speech_of("&lt;S&gt;one\ntwo&lt;E&gt;") == ["one\ntwo"]
    assert speech_of("silence <S> <E>") == []


def test_a_sentence_of_thirteen_words_takes_about_five_seconds():
    line = "The quick brown fox jumps over the lazy dog, and then it rests."
    assert estimate_speech_seconds([line]) == pytest.approx(4.8, abs=0.3)


def test_chinese_is_timed_by_character_and_not_by_word():
    assert estimate_speech_seconds(["今天我们一起来学习新的知识吧"]) == pytest.approx(3.1, abs=0.2)


def test_long_words_and_scripts_without_spaces_are_timed_by_letter():
    assert estimate_speech_seconds(["Donaudampfschifffahrtsgesellschaft"]) > 2
    assert estimate_speech_seconds(["สวัสดีครับวันนี้อากาศดีมาก"]) > 1


def test_punctuation_alone_takes_no_time():
    assert estimate_speech_seconds(["... — !", ""]) == 0


def test_each_further_line_adds_a_pause():
    one, two = (estimate_speech_seconds(["Hello there."] * n) for n in (1, 2))
    assert 2 * one < two < 2 * one + 1


def test_speech_that_does_not_fit_is_reported_in_words():
    prompt = f"A man. <S>{'very ' * 40}long<E>"
    warning = speech_overrun(prompt, 5.0)
    assert warning is not None and "15.2 s" in warning and "5.0 s" in warning and "67%" in warning
    assert speech_overrun(prompt, 20.0) is None
    assert speech_overrun("A man is silent", 1.0) is None


def test_file_names_are_short_distinct_and_carry_size_and_seed():
    name = file_stem(GOOD, height=512, width=992, seed=7)
    assert name.startswith("A_man._Hello_there._He_nods._Bye._Calm_voi")
    assert name.endswith("_512x992_7")
    assert name != file_stem(GOOD + " ", height=512, width=992, seed=7)


@pytest.mark.parametrize("prompt", ['a/b\\c:d*e?f"g|h\ti\x00\x1b', "...", "", "CON", "dots . . "])
def test_file_names_are_safe_on_every_system(prompt):
    name = file_stem(prompt, height=32, width=64, seed=0)
    assert not set(name) & set('<>:"/\\|?* \t\n\x00\x1b')
    assert not name.startswith((".", "_")) and len(name) < 80
    assert name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL"}
