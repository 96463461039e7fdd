"""Which latents make block i, and what it may peek at. Positions are Python ints (spec 02 §2-3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import BlockSizes
from ..errors import RequestError
from .window import Window


@dataclass(frozen=True, slots=True)
class Block:
    """One unit of generation. Ends are exclusive."""

    index: int
    first_video: int
    end_video: int
    first_audio: int
    end_audio: int
    lookahead: int
    is_last: bool

    @property
    def num_video(self) -> int:
        """Video latents of the block."""
        return self.end_video - self.first_video

    @property
    def num_audio(self) -> int:
        """Audio latents of the block, without look-ahead."""
        return self.end_audio - self.first_audio

    @property
    def window(self) -> int:
        """Audio latents denoised with the block: its own and the look-ahead."""
        return self.num_audio + self.lookahead

    @property
    def audio_horizon(self) -> int:
        """Audio latents that one network call reads: history, block and look-ahead."""
        return self.end_audio + self.lookahead


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """A clip as blocks that all have the same size; `window` bounds what it remembers of them."""

    sizes: BlockSizes
    num_blocks: int
    window: Window | None = None

    def __post_init__(self) -> None:
        sizes = self.sizes
        if min(sizes.video_latents, sizes.audio_latents, self.num_blocks) < 1:
            raise RequestError(
                "A clip needs at least one block, and a block one latent of each stream",
                found=f"{self.num_blocks} blocks of {sizes}",
            )
        if sizes.lookahead < 0:
            raise RequestError("The look-ahead cannot be negative", found=sizes.lookahead)

    @classmethod
    def of(cls, video_latents: int, audio_latents: int, sizes: BlockSizes) -> ClipPlan:
        """Cut a clip of known length.

        Raises:
            RequestError: the counts are not whole blocks, or the streams disagree.
        """
        video, video_rest = divmod(video_latents, sizes.video_latents)
        audio, audio_rest = divmod(audio_latents, sizes.audio_latents)
        if video_rest or audio_rest or video != audio or video < 1:
            raise RequestError(
                "Picture and sound do not make the same whole number of blocks",
                found=f"{video_latents} video and {audio_latents} audio latents",
                fix=f"use multiples of {sizes.video_latents} and {sizes.audio_latents}",
            )
        return cls(sizes, video)

    @property
    def video_latents(self) -> int:
        """Video latents of the clip."""
        return self.num_blocks * self.sizes.video_latents

    @property
    def audio_latents(self) -> int:
        """Audio latents of the clip."""
        return self.num_blocks * self.sizes.audio_latents

    @property
    def audio_horizon(self) -> int:
        """Audio latents that the last call reads."""
        return self.audio_latents + self.sizes.lookahead

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, in order."""
        return tuple(self.block(i) for i in range(self.num_blocks))

    def block(self, index: int) -> Block:
        """Block number `index`."""
        sizes = self.sizes
        return Block(
            index=index,
            first_video=index * sizes.video_latents,
            end_video=(index + 1) * sizes.video_latents,
            first_audio=index * sizes.audio_latents,
            end_audio=(index + 1) * sizes.audio_latents,
            lookahead=sizes.lookahead,
            is_last=index == self.num_blocks - 1,
        )

    @property
    def slides(self) -> bool:
        """Whether blocks are forgotten before the clip ends."""
        return self.window is not None and self.num_blocks > self.window.blocks

    @property
    def remembered(self) -> ClipPlan:
        """The longest clip that is remembered at a time: what memory and positions are needed for.

        It is the clip itself unless that `slides`.
        """
        if self.window is None or not self.slides:
            return self
        return replace(self, num_blocks=self.window.blocks)

    def place(self, block: Block) -> Block:
        """A block where it stands among what is remembered; its index stays."""
        if self.window is None or not self.slides:
            return block
        place = self.block(self.window.place(block.index))
        return replace(place, index=block.index, is_last=block.is_last)

    def num_passes(self, steps: int) -> int:
        """Network calls of the clip: `steps` per block, a context pass after all but the last."""
        return self.num_blocks * (steps + 1) - 1
