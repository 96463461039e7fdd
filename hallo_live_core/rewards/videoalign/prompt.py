"""What VideoAlign reads: chat, video, the template it was trained on, the prompt (spec 08 §4.3)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, HalloLiveError, ShapeError

REWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
"""Visual quality, motion quality, text alignment; appended to Qwen's tokenizer in this order."""

VIDEO_PAD, PAD = "<|video_pad|>", "<|endoftext|>"
CHAT_TOKENS = (PAD, VIDEO_PAD, "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")

SPECIAL = re.compile(r"(<\|\w+\|>)")
PLACEHOLDER = "{text_prompt}"

TEMPLATE_FILE = Path(__file__).with_name("prompt_template.json")


@dataclass(frozen=True, slots=True)
class Template:
    """The trained prompt, byte exact, and the chat around it."""

    chat_prefix: str
    template: str
    chat_suffix: str

    def text(self, prompt: str) -> str:
        """The user's turn without the video, as one reads it."""
        return self.template.replace(PLACEHOLDER, prompt)

    @property
    def whole(self) -> str:
        """The conversation with one video token and the placeholder."""
        return self.chat_prefix + self.template + self.chat_suffix


def load_template() -> Template:
    """The template in the data file, which names its source."""
    stored = json.loads(TEMPLATE_FILE.read_text(encoding="utf-8"))
    return Template(stored["chat_prefix"], stored["template"], stored["chat_suffix"])


def as_reference(prompt: str) -> str:
    """The prompt as the research code passes it by mistake: a list, printed (spec 08 §7)."""
    return repr([prompt])


@dataclass(frozen=True)
class RewardTokenizer:
    """A prompt -> the token ids of the whole conversation.

    `pieces` maps text to ids and takes what looks like a special token for plain text, so that a
    prompt can contain anything; `special` holds the ids of the special tokens.
    """

    pieces: Callable[[str], list[int]]
    special: Mapping[str, int]
    template: Template

    @property
    def reward_ids(self) -> tuple[int, ...]:
        """Ids of the three reward tokens."""
        return tuple(self.special[token] for token in REWARD_TOKENS)

    def __call__(self, prompt: str, visual_tokens: int) -> list[int]:
        """Token ids with this many video tokens and exactly one reward token of each kind."""
        ids: list[int] = []
        for part in SPECIAL.split(self.template.whole):
            if part == VIDEO_PAD:
                ids += [self.special[part]] * visual_tokens
            elif part in self.special:
                ids.append(self.special[part])
            else:
                ids += self.pieces(part.replace(PLACEHOLDER, prompt))
        if sorted(i for i in ids if i in self.reward_ids) != sorted(self.reward_ids):
            raise CheckpointError(
                "The tokenizer of the video judge takes plain text for reward tokens",
                fix="use tokenizer.json of KlingTeam/VideoReward",
            )
        return ids


def tokenizer_from_json(content: bytes) -> RewardTokenizer:
    """The tokenizer in a `tokenizer.json` of VideoReward or of Qwen2-VL.

    Qwen's lacks the reward tokens; they are appended.

    Raises:
        CheckpointError: the content is something else.
        HalloLiveError: the package tokenizers is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise HalloLiveError(
            "The video judge needs the package tokenizers",
            found=str(error),
            fix='pip install "hallo-live[rewards]"',
        ) from error
    try:
        model = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the package raises bare Exception for every mistake
        raise _unusable(error) from error
    model.no_truncation()
    model.no_padding()
    model.add_special_tokens(list(REWARD_TOKENS))
    model.encode_special_tokens = True
    special: dict[str, int] = {}
    for token in (*CHAT_TOKENS, *REWARD_TOKENS):
        index = model.token_to_id(token)
        if index is None:
            raise _unusable(f"no token {token}")
        special[token] = index

    def pieces(text: str) -> list[int]:
        return model.encode(text, add_special_tokens=False).ids

    return RewardTokenizer(pieces, special, load_template())


def reward_positions(ids: Tensor, reward_ids: tuple[int, ...]) -> Tensor:
    """Where the reward tokens of every row of [b, l] stand, in order: [b, number of them].

    Raises:
        ShapeError: a row does not have exactly as many as there are kinds.
    """
    found = torch.isin(ids, torch.tensor(reward_ids, device=ids.device))
    counts = found.sum(1).tolist()
    if any(count != len(reward_ids) for count in counts):
        raise ShapeError(
            f"Every conversation must hold {len(reward_ids)} reward tokens", found=counts
        )
    return found.nonzero()[:, 1].view(len(ids), -1)


def right_padded(rows: list[list[int]], pad_id: int) -> Tensor:
    """Rows of ids of any length -> int64 [b, longest]."""
    longest = max(map(len, rows))
    return torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])


def _unusable(reason: object) -> CheckpointError:
    return CheckpointError(
        "The tokenizer file of the video judge is not a usable tokenizer.json",
        found=reason,
        fix="download checkpoint-11352/tokenizer/tokenizer.json of KlingTeam/VideoReward again",
    )
