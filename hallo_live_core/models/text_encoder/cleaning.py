"""What happens to a prompt before the tokenizer sees it (spec 05 §2)."""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


def clean_text(text: str) -> str:
    """Repaired characters, resolved HTML entities, single spaces; case and punctuation stay.

    ftfy does the repairs (mojibake, curly quotes, full-width letters, control characters); where
    it is not installed that part is left out, which the first prompt that it may concern tells.
    """
    text = _fix_text()(text)
    text = html.unescape(html.unescape(text))
    return " ".join(text.split())


@functools.cache
def _fix_text() -> Callable[[str], str]:
    try:
        from ftfy import fix_text
    except ImportError:
        return _unrepaired
    return fix_text


def _unrepaired(text: str) -> str:
    if not (text.isascii() and "".join(text.split()).isprintable()):
        _tell_that_ftfy_is_missing()
    return text


@functools.cache
def _tell_that_ftfy_is_missing() -> None:
    logger.warning(
        "ftfy is not installed: characters such as curly quotes reach the model as they are, where "
        "it was trained with plain ones. Install ftfy, or type plain characters."
    )
