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
    it is not installed that part is left out, which changes nothing for plain ASCII prompts.
    """
    text = _fix_text()(text)
    text = html.unescape(html.unescape(text))
    return " ".join(text.split())


@functools.cache
def _fix_text() -> Callable[[str], str]:
    try:
        from ftfy import fix_text
    except ImportError:
        logger.debug("ftfy is not installed: prompts are cleaned without character repair")
        return str
    return fix_text
