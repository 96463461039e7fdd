import logging
import sys

import pytest

from hallo_live_core.checkpoints.tiny_tokenizer import PROMPTS, train_tokenizer
from hallo_live_core.errors import CheckpointError, HalloLiveError
from hallo_live_core.models.text_encoder.tokenizer import (
    Tokenizer,
    from_sentencepiece,
    from_tokenizer_json,
)


@pytest.fixture(scope="module")
def files():
    return train_tokenizer()


@pytest.fixture(params=["tokenizer.json", "spiece.model"])
def tokenizer(request, files):
    loader = from_tokenizer_json if request.param == "tokenizer.json" else from_sentencepiece
    return loader(files[request.param])


@pytest.mark.parametrize(
    "text",
    [
        *PROMPTS,
        "",
        "Hello there",
        "  a\n b  ",
        "\u4f60\u597d world \u2603",
        "1,234.5 \u20ac",
        "<S>x<E>",
        "(x:1.2)",
    ],
)
def test_both_tokenizer_files_give_the_same_ids(files, text):
    ids = from_tokenizer_json(files["tokenizer.json"])(text)
    assert ids == from_sentencepiece(files["spiece.model"])(text)


def test_ids_end_with_the_end_token_and_start_without_one(tokenizer):
    ids = tokenizer("Hello there")
    assert ids[-1] == 1 and not {0, 1, 2} & set(ids[:-1])


def test_an_empty_prompt_is_one_end_token(tokenizer):
    assert tokenizer("") == [1] and tokenizer(" \n ") == [1]


def test_upper_case_speech_tags_are_ordinary_text(tokenizer):
    assert 2 not in tokenizer("<S>Hello.<E>")


def test_white_space_does_not_matter(tokenizer):
    assert tokenizer(" a  b\n") == tokenizer("a b")


def test_a_long_prompt_is_cut_to_512_tokens_with_the_end_token_kept(tokenizer, caplog):
    text = "word " * 600
    with caplog.at_level(logging.WARNING):
        ids = tokenizer(text)
    whole = len(tokenizer.pieces(text.strip()))
    assert len(ids) == 512 and ids[-1] == 1
    assert f"{whole} tokens, {whole - 511} more" in caplog.text


def test_a_prompt_of_exactly_511_pieces_is_not_cut(caplog):
    tokenizer = Tokenizer(pieces=lambda text: [7] * 511, end_id=1)
    assert len(tokenizer("x")) == 512
    assert not caplog.records


def test_settings_inside_the_json_do_not_pad_or_cut(files):
    import tokenizers

    model = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    model.enable_padding(length=64)
    model.enable_truncation(4)
    assert len(from_tokenizer_json(model.to_str().encode())("one two three four five six")) > 5


@pytest.mark.parametrize("loader", [from_tokenizer_json, from_sentencepiece])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xffgarbage" * 9])
def test_a_file_that_is_no_tokenizer_is_refused(loader, content):
    with pytest.raises(CheckpointError, match="not a usable"):
        loader(content)


@pytest.mark.parametrize(
    ("package", "loader"),
    [("tokenizers", from_tokenizer_json), ("sentencepiece", from_sentencepiece)],
)
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, package, loader):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HalloLiveError, match=rf"{package}.*pip install .hallo-live\[standalone\]"):
        loader(b"")
