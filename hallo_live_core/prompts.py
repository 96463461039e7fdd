"""Prompts: what the tags mean, whether they match, how long the speech will take.

Speech stands in ``<S>...<E>``, voice and ambience in ``<AUDCAP>...<ENDAUDCAP>``; both are plain
text for the tokenizer (spec 05 §2).
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from .errors import PromptError

SPEECH = ("<S>", "<E>")
SOUND = ("<AUDCAP>", "<ENDAUDCAP>")
CLOSING: dict[str, str] = dict((SPEECH, SOUND))
"""Which tag closes which."""

HTML_UNESCAPES = 2
"""Doubly escaped entities occur in prompt tables; the text cleaning resolves both (spec 05 §2)."""

WORDS_PER_SECOND = 2.7
"""Conversational English runs at 150-170 words a minute; other spaced languages come close."""

CHARACTERS_PER_SECOND = 15.0
"""The same pace in letters: long words, and scripts that write no spaces (Thai, Khmer, Lao)."""

CJK_CHARACTERS_PER_SECOND = 4.5
"""Chinese and Korean characters are syllables: about 5 a second without pauses, 4-5 with them."""

PAUSE_SECONDS = 0.3
"""A breath between two spoken lines."""

FILE_NAME_CHARACTERS = 42
"""How much of a prompt goes into a file name (spec 03 §8)."""

FILE_NAME_BYTES = 84
"""The same in UTF-8: with hash, size, seed and ending it stays below the 143 of encrypted disks."""

_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    port + digit for port in ("COM", "LPT") for digit in "0123456789\u00b9\u00b2\u00b3"
}
"""What Windows takes for a device, whatever follows after a dot."""

SNIPPET_CHARACTERS = 24
"""How much text around a mistake an error shows, on each side."""

_TAG = re.compile(r"<\s*/?\s*(?:S|E|AUDCAP|ENDAUDCAP)\s*/?\s*>", re.IGNORECASE)
_SPEECH = re.compile(r"<S>(.*?)<E>", re.DOTALL)
_ANY_TAG = re.compile(r"<[^<>]*>")
_CJK = re.compile(
    "[\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f]"
)
_SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")
_UNSAFE_IN_FILE_NAMES = re.compile(r'[\s<>:"/\\|?*\x00-\x1f\x7f]+')


def check_prompt(text: str) -> None:
    """Accept a prompt whose tags match, refuse any other.

    Positions in messages count characters from 1, after HTML entities are resolved.

    Raises:
        PromptError: the prompt is empty or no text, or a tag is misspelt, nested, unopened or
            unclosed.
    """
    text = _unescape(text)
    _check_characters(text)
    if not text.strip():
        raise PromptError(
            "The prompt is empty",
            fix="describe the scene; put spoken words between <S> and <E>",
        )
    open_tag: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        open_tag = _next_open_tag(text, tag, open_tag)
    if open_tag is not None:
        raise _tag_error(
            text, open_tag, "is never closed", f"add {CLOSING[open_tag.group()]} behind it"
        )


def compose_prompt(
    *, scene: str, speech: Sequence[str] = (), voice: str = "", ambience: str = ""
) -> str:
    """One prompt from its parts: the scene, each spoken line, then how all that sounds.

    Parts are plain text; empty ones are left out.

    Raises:
        PromptError: a part holds a tag of its own, or all parts are empty.
    """
    for name, part in (("scene", scene), ("speech", " ".join(speech)), ("sound", voice + ambience)):
        if tag := _TAG.search(_unescape(part)):
            raise _tag_error(
                _unescape(part),
                tag,
                f"is not allowed in the part {name!r}",
                "write plain text there, the tags are added for you",
            )
    lines = [_enclose(line.strip(), SPEECH) for line in speech if line.strip()]
    sound = " ".join(_as_sentence(part) for part in (voice, ambience) if part.strip())
    parts = [scene.strip(), *lines, _enclose(sound, SOUND) if sound else ""]
    prompt = " ".join(part for part in parts if part)
    check_prompt(prompt)
    return prompt


def respeak(prompt: str, words: str) -> str:
    """The prompt with other words: its first speech becomes `words`, further speech goes.

    Where nobody speaks yet, the words stand before the sound. `words` with tags are a prompt of
    their own and come back as they are.

    Raises:
        PromptError: the result's tags do not match, or there are no words.
    """
    check_prompt(words)
    if _TAG.search(_unescape(words)):
        return words
    check_prompt(prompt)
    spoken, plain = _enclose(words.strip(), SPEECH), _unescape(prompt)
    if found := _SPEECH.search(plain):
        return plain[: found.start()] + spoken + _SPEECH.sub("", plain[found.end() :])
    scene, tag, sound = plain.partition(SOUND[0])
    return " ".join(part for part in (scene.strip(), spoken, tag + sound) if part)


def speech_of(text: str) -> list[str]:
    """The spoken lines of a prompt, in order, without their tags."""
    lines = (line.strip() for line in _SPEECH.findall(_unescape(text)))
    return [line for line in lines if line]


def estimate_speech_seconds(lines: Iterable[str]) -> float:
    """About how long it takes to say these lines at a natural pace.

    Chinese, Japanese and Korean characters count one by one; of the rest, the slower of the
    word and the letter count decides.
    """
    spoken = [line.strip() for line in lines if line.strip()]
    pauses = PAUSE_SECONDS * max(0, len(spoken) - 1)
    return pauses + sum(_line_seconds(line) for line in spoken)


def speech_overrun(text: str, seconds: float) -> str | None:
    """A sentence for the user when the speech of a prompt will not fit into a clip, else None."""
    needed = estimate_speech_seconds(speech_of(text))
    if needed <= seconds:
        return None
    return (
        f"The speech takes about {needed:.1f} s, but the clip lasts {seconds:.1f} s: "
        f"it will sound hurried or be cut off. Shorten it by a "
        f"{1 - seconds / needed:.0%} or make the clip longer."
    )


def file_stem(prompt: str, *, height: int, width: int, seed: int) -> str:
    """A file name (without ending) that tells prompts apart on every system (spec 03 §8)."""
    words = _UNSAFE_IN_FILE_NAMES.sub("_", _ANY_TAG.sub("", prompt))
    visible = "".join(c for c in words if not unicodedata.category(c).startswith(("C", "Z")))
    short = visible.strip("._-~")[:FILE_NAME_CHARACTERS].encode()[:FILE_NAME_BYTES]
    words = short.decode(errors="ignore").rstrip("._") or "clip"
    head, dot, rest = words.partition(".")
    if dot and head.upper() in _DEVICES:
        words = f"{head}_{rest}"
    digest = hashlib.md5(prompt.encode(errors="surrogatepass"), usedforsecurity=False)
    return f"{words}_{digest.hexdigest()[:8]}_{height}x{width}_{seed}"


def _check_characters(text: str) -> None:
    """Halves of characters come from broken files and cut-off JSON; nothing can encode them."""
    for position, character in enumerate(text, 1):
        if unicodedata.category(character) == "Cs":
            raise PromptError(
                f"The prompt has half a character at character {position}",
                found=f"U+{ord(character):04X}",
                fix="type that character again, or save the file as UTF-8",
            )


def _unescape(text: str) -> str:
    for _ in range(HTML_UNESCAPES):
        text = html.unescape(text)
    return text


def _next_open_tag(
    text: str, tag: re.Match[str], open_tag: re.Match[str] | None
) -> re.Match[str] | None:
    """What is open after `tag`, given what was open before it."""
    name = tag.group()
    if name not in CLOSING and name not in CLOSING.values():
        letters = "".join(c for c in name if c.isalpha()).upper()
        raise _tag_error(
            text,
            tag,
            "is not a tag the model knows",
            f"write <{letters}> exactly so; in lower case <s> is a control token of the tokenizer",
        )
    if open_tag is None:
        if name in CLOSING:
            return tag
        opener = next(o for o, c in CLOSING.items() if c == name)
        raise _tag_error(text, tag, "closes nothing", f"put {opener} before the text it ends")
    expected = CLOSING[open_tag.group()]
    if name == expected:
        return None
    raise _tag_error(
        text,
        tag,
        f"stands inside {open_tag.group()} of character {open_tag.start() + 1}",
        f"close that with {expected} first; tags do not nest",
    )


def _tag_error(text: str, tag: re.Match[str], problem: str, fix: str) -> PromptError:
    start, end = max(0, tag.start() - SNIPPET_CHARACTERS), tag.end() + SNIPPET_CHARACTERS
    snippet = ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
    return PromptError(
        f"The tag {tag.group()} at character {tag.start() + 1} {problem}",
        found=f"'{snippet}'",
        fix=fix,
    )


def _enclose(text: str, tags: tuple[str, str]) -> str:
    return tags[0] + text + tags[1]


def _as_sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith(_SENTENCE_ENDS) else text + "."


def _line_seconds(line: str) -> float:
    num_cjk = len(_CJK.findall(line))
    words = [word for word in _CJK.sub(" ", line).split() if any(c.isalnum() for c in word)]
    num_characters = len(" ".join(words))
    spaced = max(len(words) / WORDS_PER_SECOND, num_characters / CHARACTERS_PER_SECOND)
    return num_cjk / CJK_CHARACTERS_PER_SECOND + spaced
