"""Whatever people and programs type: an answer or one line of refusal, and names safe on disks."""

import html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hallo_live_core.errors import PromptError
from hallo_live_core.prompts import (
    check_prompt,
    compose_prompt,
    estimate_speech_seconds,
    file_stem,
    speech_of,
    speech_overrun,
)

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)

TAGS = ["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "<s>", "< /E >", "&lt;S&gt;", "&amp;lt;E&amp;gt;"]
anything = st.text(st.characters(exclude_categories=()))
tagged = st.lists(st.one_of(st.sampled_from(TAGS), anything), max_size=8).map("".join)
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<>&"), max_size=40)
sizes = {"height": 512, "width": 992, "seed": 2**64 - 1}

RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
ENCRYPTED_DISK_BYTES = 143


def refusal(function, *arguments, **named) -> str:
    """Why this is refused; empty if it is not."""
    try:
        function(*arguments, **named)
    except PromptError as error:
        return str(error)
    return ""


def accepted(text) -> bool:
    reason = refusal(check_prompt, text)
    assert "\n" not in reason
    return not reason


@quick
@given(tagged)
def test_any_text_is_a_prompt_or_refused_in_one_line(text):
    if accepted(text):
        text.encode()
        assert all(line.strip() for line in speech_of(text))
        assert estimate_speech_seconds(speech_of(text)) >= 0
        speech_overrun(text, 5.0)


@quick
@given(tagged)
def test_reading_a_prompt_from_json_and_back_changes_no_decision(text):
    assert accepted(json.loads(json.dumps(text))) == accepted(text)


@quick
@given(scene=plain, speech=st.lists(plain, max_size=4), voice=plain, ambience=plain)
def test_what_is_composed_is_accepted_and_gives_its_speech_back(scene, speech, voice, ambience):
    parts = {"scene": scene, "voice": voice, "ambience": ambience}
    if not any(part.strip() for part in (scene, voice, ambience, *speech)):
        with pytest.raises(PromptError, match="empty"):
            compose_prompt(speech=speech, **parts)
        return
    prompt = compose_prompt(speech=speech, **parts)
    check_prompt(prompt)
    assert speech_of(prompt) == [line.strip() for line in speech if line.strip()]


@quick
@given(scene=tagged, speech=st.lists(tagged, max_size=3))
def test_parts_with_any_characters_compose_or_are_refused(scene, speech):
    if reason := refusal(compose_prompt, scene=scene, speech=speech):
        assert "\n" not in reason
        return
    prompt = compose_prompt(scene=scene, speech=speech)
    said = (html.unescape(html.unescape(line)).strip() for line in speech)
    assert speech_of(prompt) == [line for line in said if line]


def test_half_a_character_is_refused_with_its_position():
    with pytest.raises(PromptError, match=r"half a character at character 4.*U\+D83D"):
        check_prompt("abc\ud83d")


@quick
@given(st.one_of(tagged, anything))
def test_file_names_are_safe_on_every_system(prompt):
    name = file_stem(prompt, **sizes) + ".partial.mp4"
    assert not set(name) & set('<>:"/\\|?*\0') and not any(c.isspace() for c in name)
    assert all(c.isprintable() for c in name)
    assert not RESERVED.fullmatch(name)
    assert name[0] not in ".-~_" and len(name.encode()) <= ENCRYPTED_DISK_BYTES
    assert name == file_stem(prompt, **sizes) + ".partial.mp4"


@pytest.mark.parametrize("word", ["con", "NUL", "Aux", "lpt1", "COM9", "com\u00b9"])
def test_names_of_windows_devices_are_avoided(word):
    assert not RESERVED.fullmatch(file_stem(f"{word}. She smiles", **sizes))
    assert file_stem(f"{word}. She smiles", **sizes).startswith(f"{word}__She")


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("-rf ~", "rf"),
        ("..\\..\\x", "x"),
        ("a\u202e4pm.exe", "a4pm.exe"),
        ("\U0001f600" * 50, "\U0001f600" * 21 + "_"),
    ],
)
def test_names_neither_leave_their_folder_nor_pretend_to_be_something_else(prompt, start):
    assert file_stem(prompt, **sizes).startswith(start)
