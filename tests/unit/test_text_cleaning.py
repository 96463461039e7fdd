import sys

import pytest

from hallo_live_core.models.text_encoder import cleaning
from hallo_live_core.models.text_encoder.cleaning import clean_text


@pytest.fixture
def without_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    caches = (cleaning._fix_text, cleaning._tell_that_ftfy_is_missing)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_entities_are_resolved_twice_and_white_space_becomes_one_space():
    assert clean_text("  &amp;lt;S&amp;gt;Hi&lt;E&gt;\n\tthere\u3000now ") == "<S>Hi<E> there now"


def test_curly_quotes_and_mojibake_are_repaired():
    assert clean_text("don\u00e2\u20ac\u2122t \u201cquote\u201d") == 'don\'t "quote"'


def test_case_and_brackets_stay():
    assert clean_text("MiXeD (soft:1.2) [x]") == "MiXeD (soft:1.2) [x]"


def test_without_ftfy_entities_and_white_space_are_still_cleaned(without_ftfy):
    assert clean_text(" a &lt;S&gt; b ") == "a <S> b"
    assert clean_text("\u201cquote\u201d") == "\u201cquote\u201d"


@pytest.mark.parametrize("prompt", ["\u201cquote\u201d", "a\x07b"])
def test_the_absence_of_ftfy_is_told_once_where_it_matters(without_ftfy, caplog, prompt):
    clean_text("plain, with a line\r\nbreak and a\ttab")
    assert not caplog.records
    clean_text(prompt)
    clean_text(prompt)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Install ftfy" in caplog.text
