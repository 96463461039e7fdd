"""The lip-sync judge: a clip in, SyncNet's confidence and offset out (spec 08 §2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...types import CancelCheck
from ..base import Clip, Component, JudgeCallback, Scale, Score, Watch
from ..clip import check_clip, heard, retime
from .crop import crop_boxes, crop_faces, crop_path
from .detect import MIN_SIDE, SCALE, detect_faces, scaled_size
from .embed import FPS, SAMPLES_PER_FRAME, embed, num_windows, to_int16_scale
from .s3fd import S3FD
from .score import MAX_SHIFT, SyncCurve, pair_distances, sync_curve
from .syncnet import SyncNet
from .tracking import MIN_DETECTIONS, MIN_FACE, Track, link

Faces = Literal["mean", "best"]
Missing = Literal["neutral", "zero"]

CONFIDENCE = Scale(
    good=5.0,
    doubtful=3.0,
    source="real speech usually reaches 5 to 9; LatentSync drops training clips below 3",
)
OFFSET = Scale(
    good=-1.0,
    doubtful=-2.0,
    source="ITU-R BT.1359: sound 45 ms early is noticed, 90 ms is not accepted; a frame is 40 ms",
)

USUAL_RATES = (Fraction(24), Fraction(24000, 1001), Fraction(25))
"""Frame rates whose re-timing to 25 fps goes without saying."""


@dataclass(frozen=True, slots=True)
class FaceSync:
    """One face and how its mouth fits the sound.

    first_frame: at 25 fps; boxes: float64 [n, 4], x1, y1, x2, y2 in pixels for every frame from it.
    """

    first_frame: int
    boxes: Tensor
    curve: SyncCurve


@dataclass(frozen=True, slots=True)
class SyncDetails:
    """What the judge saw.

    faces: those that were judged; offset: of the clip in frames of 25 fps, negative when the
    matching sound comes later, None without a face; source_frames: the frame of the clip shown at
    each frame of 25 fps.
    """

    faces: tuple[FaceSync, ...] = ()
    offset: int | None = None
    source_frames: tuple[int, ...] = ()


class SyncJudge:
    """Judges whether lips and speech belong together.

    Args:
        detector, network: the two published networks, on the same device.
        faces: with several faces, "mean" of all confidences as the reference has it, or that of
            the "best", for clips in which others listen.
        missing: "neutral" gives None where nothing can be judged; "zero" gives the reference's 0.

    Raises:
        RequestError: an option is unknown.
    """

    name = "sync"

    def __init__(
        self,
        detector: S3FD,
        network: SyncNet,
        *,
        faces: Faces = "mean",
        missing: Missing = "neutral",
    ) -> None:
        for value, known in ((faces, get_args(Faces)), (missing, get_args(Missing))):
            if value not in known:
                raise RequestError("Unknown option", found=value, fix=f"use {' or '.join(known)}")
        self.detector, self.network = detector, network
        self.faces: Faces = faces
        self.missing: Missing = missing

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Detector and SyncNet."""
        return (self.detector, self.network)

    @torch.no_grad()
    def score(
        self,
        clip: Clip,
        *,
        on_progress: JudgeCallback | None = None,
        should_stop: CancelCheck | None = None,
    ) -> Score:
        """Confidence of the clip; the components are confidence, offset and distance.

        Raises:
            ShapeError: the clip is not one.
            Cancelled: `should_stop` said so.
        """
        check_clip(clip)
        sound, notes = heard(clip)
        shown = retime(len(clip.frames), clip.fps, Fraction(FPS))
        details = SyncDetails(source_frames=tuple(shown))
        if sound is None:
            return self._untold(notes, details)
        notes += _notes_on_picture(clip)
        if (obstacle := _obstacle(clip, len(shown))) is not None:
            return self._untold((obstacle, *notes), details)
        watch = Watch(self.name, on_progress, should_stop)
        tracks = link(self._find(clip.frames, shown, watch))
        usable = [t for t in tracks if t.is_long_enough and t.is_large_enough]
        judged = [self._judge(clip.frames, shown, sound, track, watch) for track in usable]
        faces = tuple(face for face in judged if face is not None)
        if not faces:
            return self._untold((_why_no_face(tracks, bool(usable)), *notes), details)
        if len(faces) > 1:
            how = "the mean of all" if self.faces == "mean" else "the best"
            notes = (f"{len(faces)} faces were found; the score is {how}", *notes)
        return self._told(faces, notes, details)

    def _find(self, frames: Tensor, shown: Sequence[int], watch: Watch) -> list[Tensor]:
        """Faces [m, 5] at every frame of 25 fps; every frame of the clip is searched once."""
        used = sorted(set(shown))
        searched = frames if len(used) == len(frames) else frames[used]
        found = dict(zip(used, detect_faces(self.detector, searched, watch), strict=True))
        return [found[frame] for frame in shown]

    def _judge(
        self, frames: Tensor, shown: Sequence[int], sound: Tensor, track: Track, watch: Watch
    ) -> FaceSync | None:
        """Compare one face with the sound of its time; None if there is too little of it."""
        first, end = track.first_frame, track.last_frame + 1
        heard_then = sound[first * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]
        if num_windows(end - first, len(heard_then)) <= MAX_SHIFT:
            return None
        boxes = crop_boxes(crop_path(track.boxes))
        crops = crop_faces([frames[shown[n]] for n in range(first, end)], boxes)
        like = next(self.network.parameters())
        lips, audio = embed(self.network, crops, to_int16_scale(heard_then), like=like, watch=watch)
        distances = pair_distances(lips.cpu().double(), audio.cpu().double())
        return FaceSync(first, track.boxes, sync_curve(distances))

    def _told(
        self, faces: tuple[FaceSync, ...], notes: tuple[str, ...], details: SyncDetails
    ) -> Score:
        best = max(faces, key=lambda face: face.curve.confidence)
        counted = [face.curve for face in (faces if self.faces == "mean" else (best,))]
        confidence = sum(curve.confidence for curve in counted) / len(counted)
        offset = int(sum(curve.offset for curve in counted) / len(counted))
        distance = sum(curve.min_distance for curve in counted) / len(counted)
        return Score(
            judge=self.name,
            value=confidence,
            components=(
                Component("confidence", confidence, confidence, CONFIDENCE),
                Component("offset", offset, -abs(offset), OFFSET),
                Component("distance", distance, distance),
            ),
            reasons=notes,
            details=SyncDetails(faces, offset, details.source_frames),
        )

    def _untold(self, reasons: tuple[str, ...], details: SyncDetails) -> Score:
        value = None if self.missing == "neutral" else 0.0
        return Score(judge=self.name, value=value, reasons=reasons, details=details)


def _obstacle(clip: Clip, num_shown: int) -> str | None:
    """Why no face of this clip can ever be judged, None if one may be."""
    height, width = clip.frames.shape[1:3]
    if num_shown < MIN_DETECTIONS:
        return f"too short: {clip.seconds:.2f} s, needed {MIN_DETECTIONS / FPS:.2f} s"
    if min(height, width) < MIN_SIDE:
        return f"frames of {width}x{height} are too small: a face needs {MIN_FACE:.0f} pixels"
    return None


def _notes_on_picture(clip: Clip) -> tuple[str, ...]:
    notes = []
    if clip.fps not in USUAL_RATES:
        notes.append(f"picture was re-timed from {float(clip.fps):g} to {FPS} fps")
    height, width = clip.frames.shape[1:3]
    small = scaled_size(height, width)
    if small[1] < round(width * SCALE):
        notes.append(f"faces were searched at {small[1]}x{small[0]}, frames are {width}x{height}")
    return tuple(notes)


def _why_no_face(tracks: Sequence[Track], usable: bool) -> str:
    """The likeliest cause, in words."""
    if usable:
        return f"sound covers too little of the face: needed {(MAX_SHIFT + 6) / FPS:.2f} s"
    if not tracks:
        return "no face was found; drawn faces and profiles are often missed"
    long = [track for track in tracks if track.is_long_enough]
    if long:
        largest = max(track.size for track in long)
        return f"the face is too small: {largest:.0f} px, needed more than {MIN_FACE:.0f}"
    most = max(len(track.detections) for track in tracks)
    return f"no face stays long enough: seen in {most} frames of 25 fps, needed {MIN_DETECTIONS}"
