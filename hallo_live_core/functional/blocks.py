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
    """A clip as blocks of one size; `window` bounds what it remembers of them.

    opening: video latents of a shorter first block, for an earlier first frame; the rest of the
    first whole block is then a block of its own, and positions stay what they were. 0: none.
    """

    sizes: BlockSizes
    num_blocks: int
    window: Window | None = None
    opening: int = 0

    def __post_init__(self) -> None:
        sizes = self.sizes
        if min(sizes.video_latents, sizes.audio_latents, self.num_blocks) < 1:
            raise RequestError(
                "A clip needs at least one block, and a block one latent of each stream",
                found=f"{self.num_blocks} blocks of {sizes}",
            )
        if sizes.lookahead < 0:
            raise RequestError("The look-ahead cannot be negative", found=sizes.lookahead)
        if self.opening:
            self._check_opening()

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
        return self._start(self.num_blocks)

    @property
    def audio_latents(self) -> int:
        """Audio latents of the clip."""
        return self._sound(self.video_latents)

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
        first, end = self._start(index), self._start(index + 1)
        return Block(
            index=index,
            first_video=first,
            end_video=end,
            first_audio=self._sound(first),
            end_audio=self._sound(end),
            lookahead=self.sizes.lookahead,
            is_last=index == self.num_blocks - 1,
        )

    @property
    def smallest(self) -> int:
        """Video latents of the smallest block."""
        whole = self.sizes.video_latents
        return min(self.opening, whole - self.opening) if self.opening else whole

    def second(self, index: int) -> int | None:
        """The whole block that begins with block `index`; None for the rest of the first one."""
        if not self.opening:
            return index
        return None if index == 1 else max(index - 1, 0)

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

    def _start(self, index: int) -> int:
        """Video latents before block number `index`."""
        whole = self.sizes.video_latents
        if not self.opening:
            return index * whole
        return index * self.opening if index < 2 else (index - 1) * whole

    def _sound(self, video_latents: int) -> int:
        """Audio latents that belong to so many video latents, from a block's border on."""
        return video_latents * self.sizes.audio_latents // self.sizes.video_latents

    def _check_opening(self) -> None:
        whole, sound = self.sizes.video_latents, self.sizes.audio_latents
        fitting = [n for n in range(1, whole) if n * sound % whole == 0]
        if self.opening not in fitting or self.num_blocks < 2:
            raise RequestError(
                "A short first block of this length is not possible",
                found=f"{self.opening} of {whole} video latents, {self.num_blocks} blocks",
                fix=f"use one of {fitting}" if fitting else "use 0",
            )
        if self.slides:
            raise RequestError(
                "A short first block and a window exclude each other",
                found=f"a window of {self.remembered.num_blocks} blocks",
                fix="begin with a whole block, or ask for a length and no window",
            )
