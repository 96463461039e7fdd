"""Kinds of the area `rewards` that belong to the lip-sync judge, and how scores combine."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from hallo_live_core.checkpoints.rewards import (
    face_detector_from_state_dict,
    syncnet_from_state_dict,
)
from hallo_live_core.rewards.base import Watch
from hallo_live_core.rewards.clip import retime
from hallo_live_core.rewards.combine import reference_scales, z_scores
from hallo_live_core.rewards.sync.crop import (
    GREY,
    MEDIAN_KERNEL,
    crop_boxes,
    crop_faces,
    crop_path,
    cut,
)
from hallo_live_core.rewards.sync.detect import (
    SCALE,
    decode,
    make_priors,
    normalise,
    scale_frames,
    select_candidates,
    select_faces,
)
from hallo_live_core.rewards.sync.embed import embed, num_windows
from hallo_live_core.rewards.sync.mfcc import MfccConfig, analyse, filterbank, mfcc
from hallo_live_core.rewards.sync.s3fd import S3FD
from hallo_live_core.rewards.sync.score import pair_distances, sync_curve
from hallo_live_core.rewards.sync.syncnet import SyncNet, audio_windows, lip_input
from hallo_live_core.rewards.sync.tracking import MAX_GAP, MIN_IOU, link

from .filled import filled
from .harness import Golden, assert_max_abs, assert_rel_l2

WATCH = Watch("golden")
EMBEDDINGS = 5e-6
"""Relative L2 of SyncNet in float64 against stored float32."""


def syncnet_of(golden: Golden) -> SyncNet:
    return syncnet_from_state_dict(filled(golden, "syncnet_v2"), "golden").double()


def s3fd_of(golden: Golden) -> S3FD:
    return face_detector_from_state_dict(filled(golden, "s3fd"), "golden").double()


def check_mfcc(golden: Golden) -> None:
    s = golden.meta["config"]["settings"]
    config = MfccConfig(
        sample_rate=s["sample_rate"],
        window=s["win"],
        hop=s["hop"],
        fft_size=s["nfft"],
        preemphasis=s["preemph"],
        num_filters=s["nfilt"],
        num_coefficients=s["numcep"],
        lifter=s["lifter"],
        eps=s["eps"],
    )
    assert s["window"] == "rectangular" and s["append_energy"]
    assert_max_abs(filterbank(config), golden["out.filterbank"], "filterbank", 1e-12)
    spectrum = analyse(golden["in.pcm"], config)
    assert_rel_l2(spectrum.filter_energies, golden["out.fbank_energies"], "energies", 1e-12)
    assert_rel_l2(spectrum.energy, golden["out.frame_energy"], "energy", 1e-12)
    for end in ("", "_short"):
        assert_max_abs(mfcc(golden["in.pcm" + end], config), golden["out.mfcc" + end], "mfcc", 1e-9)


@torch.no_grad()
def check_syncnet_forward(golden: Golden) -> None:
    network = syncnet_of(golden)
    crops = lip_input(golden["in.frames_bgr"].flip(-1)).double()
    windows = audio_windows(golden["in.mfcc"])
    for name, found in {
        "lip_cnn": network.lip_features(crops),
        "lip": network.embed_lips(crops),
        "aud_cnn": network.audio_features(windows),
        "aud": network.embed_audio(windows),
    }.items():
        assert_rel_l2(found, golden[f"out.{name}"], name, EMBEDDINGS)


def check_syncnet_score(golden: Golden) -> None:
    for name, case in golden.meta["config"]["cases"].items():
        lips, audio = golden[f"in.{name}.im_feat"], golden[f"in.{name}.cc_feat"]
        distances = pair_distances(lips, audio, golden.meta["config"]["vshift"])
        curve = sync_curve(distances)
        assert_max_abs(distances, golden[f"out.{name}.dists"], name, 1e-5)
        means = torch.tensor(curve.distances)
        assert_max_abs(means, golden[f"out.{name}.mean_dists"], name, 1e-5)
        assert curve.offset == case["offset"] == int(golden[f"out.{name}.offset"])
        assert abs(curve.min_distance - float(golden[f"out.{name}.min_dist"])) <= 1e-5
        assert abs(curve.confidence - float(golden[f"out.{name}.confidence"])) <= 1e-5


def frames_by_formula(config: dict) -> Tensor:
    a, n = config["a"], config["N"]
    t, y, x, c = torch.meshgrid(*(torch.arange(size) for size in (n, 224, 224, 3)), indexing="ij")
    frames = (a[0] * x + a[1] * y + a[2] * t * (1 + c) + a[3] * c + (x * y) // a[4]) % 256
    assert int(frames.sum()) == config["frames_sum"]
    return frames.to(torch.uint8)


def check_syncnet_pipeline(golden: Golden) -> None:
    crops = frames_by_formula(golden.meta["config"]).flip(-1)
    sound = golden["in.pcm"]
    like = torch.empty(0, dtype=torch.float64)
    lips, audio = embed(syncnet_of(golden), crops, sound, like=like, watch=WATCH)
    assert len(lips) == num_windows(len(crops), len(sound))
    assert_rel_l2(lips, golden["out.im_feat"], "lips", EMBEDDINGS)
    assert_rel_l2(audio, golden["out.cc_feat"], "audio", EMBEDDINGS)
    curve = sync_curve(pair_distances(lips, audio))
    assert curve.offset == int(golden["out.offset"])
    assert abs(curve.min_distance - float(golden["out.min_dist"])) <= 1e-3
    assert abs(curve.confidence - float(golden["out.confidence"])) <= 1e-3


def check_s3fd_preprocess(golden: Golden) -> None:
    assert golden.meta["config"]["scale"] == SCALE
    scaled = scale_frames(golden["in.rgb"][None])[0]
    assert_max_abs(scaled, golden["out.scaled"], "scaled", 1)
    assert_max_abs(normalise(golden["out.scaled"][None]), golden["out.net_input"], "input", 1e-6)


@torch.no_grad()
def check_s3fd_forward(golden: Golden) -> None:
    picture = golden["in.scaled_rgb_u8"]
    height, width = picture.shape[:2]
    image = normalise(picture[None]).double()
    assert_max_abs(image[..., :8, :8], golden["in.net_input"], "input", 1e-6)
    network = s3fd_of(golden)
    raw = {}
    for level in (0, 1):
        network.conf[level].register_forward_hook(
            lambda _m, _i, out, level=level: raw.update({level: out[..., :4, :4]})
        )
    regressions, logits, levels = network(image)
    for level, corner in raw.items():
        assert_rel_l2(corner, golden[f"out.conf_raw_level{level}"], f"raw {level}", 1e-5)
    assert [list(level) for level in levels] == golden.meta["config"]["feature_maps"]
    assert_rel_l2(regressions, golden["out.loc"], "loc", 1e-5)
    scores = logits.softmax(dim=-1)
    assert_max_abs(scores, golden["out.conf"], "conf", 1e-4)
    priors = make_priors(levels, height, width)
    assert_max_abs(priors[::17], golden["out.priors_every_17"], "priors", 1e-5)
    faces = select_faces(
        decode(regressions[0], priors), scores[0, :, 1], width=width, height=height
    )
    assert_most_rows_found(golden["out.final"], faces)


def assert_most_rows_found(expected: Tensor, found: Tensor) -> None:
    """Candidates within 1e-4 of a threshold may flip, and each flip changes few others."""
    off = (expected[:, None] - found[None]).abs().amax(dim=-1).amin(dim=1)
    assert (off <= 0.05).float().mean() >= 0.9, f"{int((off > 0.05).sum())} of {len(expected)} gone"
    assert abs(len(found) - len(expected)) <= 0.1 * len(expected)


def check_s3fd_decode(golden: Golden) -> None:
    config = golden.meta["config"]
    levels = [(rows, columns) for rows, columns in config["feature_maps"]]
    priors = make_priors(levels, *config["net_input_hw"])
    assert_max_abs(priors, golden["out.priors"], "priors", 1e-5)
    boxes = decode(golden["in.loc"], priors)[0]
    assert_max_abs(boxes, golden["out.decoded"], "decoded", 1e-5)
    scores = golden["in.logits"].softmax(dim=-1)[0, :, 1]
    kept, kept_scores = select_candidates(boxes, scores)
    assert_max_abs(torch.cat([kept_scores[:, None], kept], 1), golden["out.stage1"], "first", 1e-5)
    height, width = config["original_hw"]
    faces = select_faces(boxes, scores, width=width, height=height)
    assert_max_abs(faces, golden["out.final"], "final", 5e-3)


def check_face_track(golden: Golden) -> None:
    config = golden.meta["config"]
    assert (config["iou_threshold"], config["max_gap"]) == (MIN_IOU, MAX_GAP)
    for name, case in golden.meta["config"]["cases"].items():
        rows = golden[f"in.{name}.det"]
        faces = [rows[rows[:, 0] == frame][:, 1:] for frame in range(case["num_frames"])]
        tracks = [t for t in link(faces) if t.is_long_enough and t.is_large_enough]
        assert [[t.first_frame, t.last_frame] for t in tracks] == case["spans"], name
        assert len(tracks) == case["num_tracks"]
        for number, track in enumerate(tracks):
            stored = f"out.{name}.track{number}"
            frames = torch.arange(track.first_frame, track.last_frame + 1)
            assert torch.equal(frames, golden[f"{stored}.frame"])
            assert_max_abs(track.boxes, golden[f"{stored}.bbox"], name, 1e-9)


def check_face_crop(golden: Golden) -> None:
    config = golden.meta["config"]
    assert (config["pad_value"], config["median_kernel"]) == (GREY, MEDIAN_KERNEL)
    path = crop_path(golden["in.bbox"])
    for name in ("half_size", "center_x", "center_y"):
        assert torch.equal(getattr(path, name), golden[f"out.{name}"]), name
    boxes = crop_boxes(path, config["crop_scale"])
    geometry = [[b.pad, b.top, b.bottom, b.left, b.right] for b in boxes]
    assert geometry == golden["out.geometry"].tolist()
    frames = golden["in.frames_picked"]
    picked = [boxes[i] for i in golden["in.picked_index"].tolist()]
    assert torch.equal(cut(frames[1], picked[1]), golden["out.crop_before_resize"])
    assert_max_abs(crop_faces(frames, picked), golden["out.crops"], "crops", 1)


def check_resample(golden: Golden) -> None:
    fps, target = golden.meta["from_fps"], golden.meta["to_fps"]
    for frames, expected in golden.meta["cases"].items():
        assert retime(int(frames), Fraction(fps), Fraction(target)) == expected, frames


def check_reward_combine(golden: Golden) -> None:
    beta = golden.meta["config"]["beta"]
    sync, audio, video = (golden[f"in.{n}"] for n in ("sync", "audio", "videoalign"))
    assert_rel_l2(z_scores(sync), golden["out.sync_z"], "sync", 1e-5)
    assert_rel_l2(z_scores(audio), golden["out.audio_z"], "audio", 1e-5)
    scales = reference_scales(beta=beta, sync=sync, audio=audio, video=video)
    assert_rel_l2(scales.video, golden["out.video_scale"], "video", 1e-5)
    assert_rel_l2(scales.audio, golden["out.audio_scale"], "audio", 1e-5)
    constant = golden["out.constant_case_z"]
    assert_max_abs(z_scores(torch.full_like(constant, 1.7)), constant, "constant", 1e-6)


CHECKS = {
    "mfcc": check_mfcc,
    "syncnet_forward": check_syncnet_forward,
    "syncnet_score": check_syncnet_score,
    "syncnet_pipeline": check_syncnet_pipeline,
    "s3fd_preprocess": check_s3fd_preprocess,
    "s3fd_forward": check_s3fd_forward,
    "s3fd_decode": check_s3fd_decode,
    "face_track": check_face_track,
    "face_crop": check_face_crop,
    "resample_24_to_25": check_resample,
    "reward_combine": check_reward_combine,
}
