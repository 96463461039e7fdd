"""SyncNet v2: five frames of a mouth and 0.2 s of sound into one space (spec 08 §2.5)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

WINDOW_FRAMES = 5
"""Frames of one lip embedding."""

WINDOW_COLUMNS, COLUMNS_PER_FRAME = 20, 4
"""MFCC columns of one audio embedding, and from one frame to the next."""


@dataclass(frozen=True, slots=True)
class SyncNetConfig:
    """Output channels of the convolutions of both branches, and the widths of their heads."""

    lip: tuple[int, ...] = (96, 256, 256, 256, 256, 512)
    audio: tuple[int, ...] = (64, 192, 384, 256, 256, 512)
    hidden: int = 512
    embedding: int = 1024


class SyncNet(nn.Module):
    """Both branches; parameter names as published. Embeddings are not normalised."""

    def __init__(self, config: SyncNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SyncNetConfig()
        self.netcnnaud = _audio_branch(config.audio)
        self.netfcaud = _head(config.audio[-1], config)
        self.netfclip = _head(config.lip[-1], config)
        self.netcnnlip = _lip_branch(config.lip)

    def lip_features(self, crops: Tensor) -> Tensor:
        """One feature vector per window of five frames, for all windows at once.

        Only the first convolution sees time, so running over a whole clip equals running over
        its windows.

        Args:
            crops: [f, 3, 224, 224], BGR of 0..255, at least five frames.

        Returns:
            [f - 4, c].
        """
        return self.netcnnlip(crops.transpose(0, 1)[None])[0, :, :, 0, 0].T

    def audio_features(self, windows: Tensor) -> Tensor:
        """MFCC windows [n, 13, 20] -> [n, c]."""
        return self.netcnnaud(windows[:, None]).flatten(1)

    def embed_lips(self, crops: Tensor) -> Tensor:
        """Crops [f, 3, 224, 224] -> embeddings [f - 4, 1024]."""
        return self.netfclip(self.lip_features(crops))

    def embed_audio(self, windows: Tensor) -> Tensor:
        """MFCC windows [n, 13, 20] -> embeddings [n, 1024]."""
        return self.netfcaud(self.audio_features(windows))


def audio_windows(coefficients: Tensor) -> Tensor:
    """MFCC [13, t] -> [n, 13, 20], one window per frame of 25 fps."""
    return coefficients.unfold(1, WINDOW_COLUMNS, COLUMNS_PER_FRAME).transpose(0, 1)


def lip_input(crops: Tensor) -> Tensor:
    """uint8 [f, h, w, 3] RGB -> float32 [f, 3, h, w] BGR of 0..255."""
    return crops.flip(-1).permute(0, 3, 1, 2).float()


def _lip_branch(widths: tuple[int, ...]) -> nn.Sequential:
    a, b, c, d, e, f = widths
    return nn.Sequential(
        *_lip_layer(3, a, (5, 7, 7), stride=(1, 2, 2), padding=0),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
        *_lip_layer(a, b, (1, 5, 5), stride=(1, 2, 2)),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        *_lip_layer(b, c, (1, 3, 3)),
        *_lip_layer(c, d, (1, 3, 3)),
        *_lip_layer(d, e, (1, 3, 3)),
        nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),
        *_lip_layer(e, f, (1, 6, 6), padding=0),
    )


def _lip_layer(
    c_in: int,
    c_out: int,
    kernel: tuple[int, int, int],
    *,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] = (0, 1, 1),
) -> list[nn.Module]:
    conv = nn.Conv3d(c_in, c_out, kernel, stride=stride, padding=padding)
    return [conv, nn.BatchNorm3d(c_out), nn.ReLU(inplace=True)]


def _audio_branch(widths: tuple[int, ...]) -> nn.Sequential:
    a, b, c, d, e, f = widths
    return nn.Sequential(
        *_audio_layer(1, a),
        nn.Identity(),  # a pool of size 1 in the publication; keeps the numbers of the others
        *_audio_layer(a, b),
        nn.MaxPool2d(3, stride=(1, 2)),
        *_audio_layer(b, c),
        *_audio_layer(c, d),
        *_audio_layer(d, e),
        nn.MaxPool2d(3, stride=2),
        *_audio_layer(e, f, kernel=(5, 4), padding=0),
    )


def _audio_layer(
    c_in: int, c_out: int, *, kernel: tuple[int, int] = (3, 3), padding: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=padding)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]


def _head(c_in: int, config: SyncNetConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(c_in, config.hidden),
        nn.BatchNorm1d(config.hidden),
        nn.ReLU(inplace=True),
        nn.Linear(config.hidden, config.embedding),
    )
