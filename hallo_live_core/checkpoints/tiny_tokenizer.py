"""A real but small tokenizer, trained in a moment, in both file formats of the published one."""

from __future__ import annotations

import io

from ..errors import HalloLiveError

PROMPTS = (
    "A woman with short silver hair looks into the camera in a bright studio. She says, "
    "<S>Welcome to our channel, I am glad that you are here.<E> "
    "<AUDCAP>Clear female voice, soft room tone.<ENDAUDCAP>",
    "A young man in a green jacket stands on a windy pier at sunset and laughs. "
    "<S>Nobody told me that the sea would be this loud!<E> "
    "<AUDCAP>Cheerful male voice, wind, waves and distant gulls.<ENDAUDCAP>",
    "A teacher with round glasses stands before a blackboard and smiles at the camera. "
    "<S>Good morning, everyone. Today we learn how a picture can speak.<E> "
    "<AUDCAP>Warm voice, quiet classroom.<ENDAUDCAP>",
    "An old robot sits in a kitchen and holds a cup of tea. "
    "<S>I have been waiting for you.<E> <AUDCAP>Metallic voice, humming fridge.<ENDAUDCAP>",
)
"""What the tokenizer learns its pieces from; also good prompts for trying things out."""

VOCABULARY = 512
"""Upper bound: 4 special tokens, 256 bytes for everything unknown, then letters and words."""

SPECIAL_TOKENS = ("<pad>", "</s>", "<s>", "<unk>")
"""With the ids 0 to 3, as in umT5 (spec 05 §2)."""


def train_tokenizer() -> dict[str, bytes]:
    """The contents of `tokenizer.json` and `spiece.model`, the same on every call.

    Raises:
        HalloLiveError: a package it needs is not installed.
    """
    try:
        import sentencepiece
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError as error:
        raise HalloLiveError(
            "The tiny model needs the packages sentencepiece and tokenizers",
            found=str(error),
            fix='pip install "hallo-live[standalone]"',
        ) from error
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROMPTS),
        model_writer=content,
        model_type="unigram",
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
    )
    spiece = content.getvalue()
    trained = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    pieces = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(trained.vocab_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=trained.unk_id(), byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return {"tokenizer.json": tokenizer.to_str().encode(), "spiece.model": spiece}
