"""Prompt -> token ids, from the raw `tokenizer.json` or `spiece.model` (spec 05 §2).

`AutoTokenizer` is left alone on purpose: it is the part of transformers that changes most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ...config import TEXT_LENGTH
from ...errors import CheckpointError, HalloLiveError
from .cleaning import clean_text

logger = logging.getLogger(__name__)

END_OF_TEXT = "</s>"
INSTALL = 'pip install "hallo-live[standalone]"'


@dataclass(frozen=True)
class Tokenizer:
    """Cleans a prompt, cuts it into pieces, ends it; never pads, never adds a start token.

    `pieces` maps text to ids without any special token.
    """

    pieces: Callable[[str], list[int]]
    end_id: int
    max_tokens: int = TEXT_LENGTH

    def __call__(self, text: str) -> list[int]:
        """1 to `max_tokens` ids, the last of them the end token."""
        ids = self.pieces(clean_text(text))
        room = self.max_tokens - 1
        if len(ids) > room:
            logger.warning(
                "The prompt has %d tokens, %d more than the model reads: its end is cut off, "
                "which is usually the description of the sound. Shorten the prompt.",
                len(ids),
                len(ids) - room,
            )
        return [*ids[:room], self.end_id]


def from_tokenizer_json(content: bytes) -> Tokenizer:
    """A tokenizer from the content of a `tokenizer.json`.

    Raises:
        CheckpointError: the content is something else.
        HalloLiveError: the package tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise _needs("tokenizers", error) from error
    try:
        model = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the package raises bare Exception for every mistake
        raise _unusable("tokenizer.json", error) from error
    model.no_truncation()
    model.no_padding()
    end_id = model.token_to_id(END_OF_TEXT)
    if end_id is None:
        raise _unusable("tokenizer.json", f"no token {END_OF_TEXT}")

    def pieces(text: str) -> list[int]:
        return model.encode(text, add_special_tokens=False).ids

    return Tokenizer(pieces, end_id)


def from_sentencepiece(content: bytes) -> Tokenizer:
    """A tokenizer from the content of a `spiece.model`.

    Raises:
        CheckpointError: the content is something else.
        HalloLiveError: the package sentencepiece is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise _needs("sentencepiece", error) from error
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=content)
        end_id = model.eos_id()
    except (RuntimeError, ValueError) as error:
        raise _unusable("spiece.model", error) from error
    if end_id < 0:
        raise _unusable("spiece.model", f"no token {END_OF_TEXT}")

    def pieces(text: str) -> list[int]:
        return model.encode(text, out_type=int)

    return Tokenizer(pieces, end_id)


def _needs(package: str, error: ImportError) -> HalloLiveError:
    return HalloLiveError(
        f"The tokenizer needs the package {package}", found=str(error), fix=INSTALL
    )


def _unusable(name: str, reason: object) -> CheckpointError:
    return CheckpointError(
        f"The tokenizer file is not a usable {name}",
        found=reason,
        fix="download google/umt5-xxl/tokenizer.json of Wan-AI/Wan2.2-TI2V-5B again",
    )
