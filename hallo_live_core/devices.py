"""Which part of the system lives on which device, and in which number format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .errors import RequestError


@dataclass(frozen=True, slots=True)
class Placement:
    """Devices and dtypes of the parts. Decoders on another device run beside the transformer.

    sharers: more devices with a copy of the transformer, which share the picture's tokens with the
    first (`sampling.split`). beside: decode in a thread beside the passes also where both are on
    one device, which then serves them by priority (`decoding.turns`). The audio decoder and the
    un-normalisation of video latents always compute in float32 (spec 03 §7, 04 §8).
    """

    transformer: torch.device
    decoder: torch.device
    text_encoder: torch.device
    dtype: torch.dtype = torch.bfloat16
    decoder_dtype: torch.dtype = torch.bfloat16
    sharers: tuple[torch.device, ...] = ()
    beside: bool = False

    @classmethod
    def on(
        cls,
        device: str | torch.device,
        *,
        decoder: str | torch.device | None = None,
        text_encoder: str | torch.device | None = None,
    ) -> Placement:
        """Everything on `device` unless said otherwise; bf16, on the CPU float32."""
        main = parse_device(device)
        other = main if decoder is None else parse_device(decoder)
        text = main if text_encoder is None else parse_device(text_encoder)
        return cls(
            transformer=main,
            decoder=other,
            text_encoder=text,
            dtype=default_dtype(main),
            decoder_dtype=default_dtype(other),
        )

    def shared_with(self, others: Sequence[str | torch.device]) -> Placement:
        """The same placement with the transformer on more devices, which share its work.

        Raises:
            RequestError: none, one that does not exist, or one twice.
        """
        sharers = tuple(parse_device(other) for other in others)
        ranks = (self.transformer, *sharers)
        if not sharers or len(set(ranks)) < len(ranks):
            raise RequestError(
                "Splitting the transformer needs two or more different devices",
                found=", ".join(map(str, ranks)),
                fix="name them all, such as cuda:0,cuda:1",
            )
        return replace(self, sharers=sharers)

    @property
    def decodes_beside(self) -> bool:
        """Whether decoding happens in a worker thread, as on a device of its own."""
        return self.beside or self.decoder != self.transformer

    @property
    def decodes_by_priority(self) -> bool:
        """Whether one GPU denoises and decodes at the same time."""
        return self.beside and self.decoder == self.transformer and self.decoder.type == "cuda"


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 where matrix units have it, float32 on the CPU."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def default_device() -> torch.device:
    """The first CUDA device, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def parse_device(device: str | torch.device) -> torch.device:
    """A torch device that exists here; `auto` picks the best, `cuda` is the current GPU.

    So that two names of one GPU are equal: `cuda` becomes `cuda:0`.

    Raises:
        RequestError: the name means nothing to torch or the device is absent.
    """
    if device == "auto":
        return default_device()
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise RequestError(
            "Unknown device", found=repr(device), fix="use auto, cpu, cuda:0, cuda:1 or mps"
        ) from error
    if parsed.type != "cuda":
        return parsed
    if (parsed.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"Device {parsed} does not exist here",
            found=f"{torch.cuda.device_count()} CUDA devices",
            fix="choose another device, or cpu",
        )
    return torch.device("cuda", torch.cuda.current_device()) if str(parsed) == "cuda" else parsed
