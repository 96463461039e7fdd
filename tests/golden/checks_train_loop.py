"""Checks of training around the networks: tables, rewards, what trains, order of the loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hallo_live_core.config import ScheduleConfig
from hallo_live_core.functional.schedule import NoiseSchedule
from hallo_live_core.functional.solvers import euler_table
from training.losses.reward_weighting import REFERENCE_JUDGES, RewardSettings, weigh
from training.optimizers import build_optimizer
from training.schedules import (
    ScoreTimeSettings,
    exit_interval,
    exit_steps,
    score_timesteps,
    shifted_timesteps,
)
from training.steps import LoopSettings, create_ema, plan_iteration, update, update_ema
from training.trainable import AdamWSettings, TrainableSettings, freeze

from .harness import Golden
from .train_models import assert_close

TABLE, TRACE, REWARD = 1e-6, 1e-6, 1e-5


def check_tables(golden: Golden) -> None:
    c = golden.meta["config"]
    for shift in c["shift"]:
        check_tables_of(golden, f"out.shift{shift:g}", shift)


def check_tables_of(golden: Golden, prefix: str, shift: float) -> None:
    c = golden.meta["config"]
    count = c["num_train_timestep"]
    schedule = NoiseSchedule(ScheduleConfig(shift=shift, num_train_timesteps=count))
    settings = ScoreTimeSettings(shift=shift, num_train_timesteps=count)
    assert list(settings.clamp) == c["clamp"]
    assert_close(schedule.sigmas, golden, f"{prefix}.sigmas", TABLE)
    assert_close(schedule.timesteps, golden, f"{prefix}.timesteps", TABLE)
    raw = golden["in.t"]
    told = score_timesteps(raw, settings)
    assert_close(shifted_timesteps(raw, settings), golden, f"{prefix}.shifted", TABLE)
    assert_close(told, golden, f"{prefix}.shifted_clamped", TABLE)
    assert_close(schedule.sigmas_at(told), golden, f"{prefix}.sigma_used", TABLE)
    assert torch.equal(schedule.index(told), golden[f"{prefix}.table_index"])
    query = golden["in.query"].float()
    assert torch.equal(schedule.index(query), golden[f"{prefix}.query_index"])
    assert_close(schedule.sigmas_at(query), golden, f"{prefix}.query_sigma", TABLE)
    lists, teachers = "in.list_", f"{prefix}.teacher_sigmas_"
    for name in golden.tensors:
        if name.startswith(lists):
            check_exits(golden, prefix, name.removeprefix(lists), shift)
        elif name.startswith(teachers):
            check_teacher_table(golden, prefix, int(name.removeprefix(teachers)), shift)


def check_exits(golden: Golden, prefix: str, name: str, shift: float) -> None:
    steps = tuple(golden[f"in.list_{name}"].tolist())
    schedule = NoiseSchedule(ScheduleConfig(shift=shift, steps=steps))
    assert_close(torch.tensor(schedule.steps), golden, f"{prefix}.warp_{name}", TABLE)
    intervals = [exit_interval(schedule, e) for e in range(len(exit_steps(schedule)))]
    starts, ends = (list(column) for column in zip(*intervals, strict=True))
    assert starts == golden[f"{prefix}.from_{name}"].tolist()
    assert ends == golden[f"{prefix}.to_{name}"].tolist()


def check_teacher_table(golden: Golden, prefix: str, steps: int, shift: float) -> None:
    table = euler_table(steps, shift)
    assert_close(torch.tensor(table.sigmas), golden, f"{prefix}.teacher_sigmas_{steps}", TABLE)
    name = f"{prefix}.teacher_timesteps_{steps}"
    assert_close(torch.tensor(table.timesteps), golden, name, TABLE)


def check_reward_scale(golden: Golden) -> None:
    for case in golden.meta["cases"]:
        name = case["name"]
        judges = {judge: REFERENCE_JUDGES[judge] for judge in case["types"]}
        settings = RewardSettings(mode="reference", beta=case["beta"], judges=judges)
        scores = {judge: scores_of(golden, name, judge) for judge in judges}
        found, _ = weigh(scores, settings, {})
        assert_close(found.video, golden, f"out.{name}.video_scale", REWARD)
        assert_close(found.audio, golden, f"out.{name}.audio_scale", REWARD)
        check_normalised(golden, name, scores)


def scores_of(golden: Golden, name: str, judge: str) -> Tensor:
    """What a judge said of the clip of every process, [clips], of videoalign [clips, 3]."""
    if judge != "videoalign":
        return golden[f"in.{name}.{judge}"]
    return torch.stack([golden[f"in.{name}.{part}"] for part in ("ta", "vq", "mq")], dim=1)


def check_normalised(golden: Golden, name: str, scores: Mapping[str, Tensor]) -> None:
    """One judge alone at beta 1 gives the exponential of its normalised score."""
    for judge in ("sync", "audiobox"):
        if f"out.{name}.{judge}_normalized" in golden:
            only = {judge: REFERENCE_JUDGES[judge]}
            alone, _ = weigh(scores, RewardSettings(mode="reference", judges=only), {})
            assert_close(alone.audio.log(), golden, f"out.{name}.{judge}_normalized", REWARD)


def trainable_of(config: Mapping) -> TrainableSettings:
    return TrainableSettings(
        partial=config["partial_finetune"],
        patterns=tuple(config["trainable_modules"]),
        audio_only=config["train_audio_stream_only"],
    )


def check_trainable_filter(golden: Golden) -> None:
    """The file says no rates but those of the groups: a stream has one and the same everywhere."""
    names = golden.meta["generator_parameter_names"]
    rates: dict[str, float] = {}
    for case in golden.meta["cases"]:
        parameters = {name: nn.Parameter(torch.zeros(1)) for name in names}
        chosen = freeze(parameters, trainable_of(case))
        assert list(chosen) == case["trainable_names"]
        assert [n for n, p in parameters.items() if p.requires_grad] == list(chosen)
        found = build_optimizer(chosen, AdamWSettings()).param_groups
        for group, stated in zip(found, case["optimizer_groups_generator"], strict=True):
            assert len(group["params"]) == stated["n_params"]
            assert rates.setdefault(group["name"], stated["lr"]) == stated["lr"]


class Replay:
    """Runs the loop on recorded gradients and notes events as the file does."""

    def __init__(self, golden: Golden) -> None:
        self.golden, self.config = golden, golden.meta["config"]
        self.parameters, self.optimizers = {}, {}
        for network, rate in (("generator", "lr"), ("critic", "lr_critic")):
            initial = golden.group(f"in.{network}_init")
            self.parameters[network] = {n: nn.Parameter(x.clone()) for n, x in initial.items()}
            self.optimizers[network] = self.optimizer(network, rate)
        self.loop = LoopSettings(
            generator_every=self.config["dfake_gen_update_ratio"],
            ema_start_step=self.config["ema_start_step"],
            save_every=self.config["save_ckpt_steps"],
            max_steps=self.config["max_steps"],
        )
        self.ema: dict[str, Tensor] | None = None
        self.step, self.num_ema = 0, 0
        self.calls = dict.fromkeys(self.parameters, 0)
        self.updates = dict.fromkeys(self.parameters, 0)
        self.batches: list[str] = []
        self.events: list[dict] = []

    def optimizer(self, network: str, rate: str) -> torch.optim.AdamW:
        """The network's optimiser; its groups must be those of the file, in order."""
        c, golden = self.config, self.golden
        suffix = "" if network == "generator" else "_critic"
        settings = AdamWSettings(
            lr=c[rate],
            lr_video=c.get(f"{rate}_video"),
            lr_audio=c.get(f"{rate}_audio"),
            betas=(c[f"beta1{suffix}"], c[f"beta2{suffix}"]),
            weight_decay=c["weight_decay"],
        )
        everything = {n: self.parameters[network][n] for n in golden.group(f"in.{network}_init")}
        chosen = freeze(everything, trainable_of(c))
        assert sorted(chosen) == sorted(golden.meta["trainable"][network])
        ordered = {n: chosen[n] for n in golden.meta["trainable"][network]}
        optimizer = build_optimizer(ordered, settings)
        names = {id(p): n for n, p in chosen.items()}
        stated = golden.meta["param_groups"][network]
        for found, expected in zip(optimizer.param_groups, stated, strict=True):
            assert [names[id(p)] for p in found["params"]] == expected["params"]
            assert list(found["betas"]) == expected["betas"]
            for key in ("lr", "eps", "weight_decay"):
                assert found[key] == expected[key]
        return optimizer

    def note(self, event: str, **facts) -> None:
        if event != "save" or not self.config["no_save"]:
            self.events.append({"step": self.step, "event": event, **facts})

    def backward(self, network: str) -> None:
        """What a loss would leave on the parameters: its recorded gradient, scaled."""
        call, total = self.calls[network], self.config["gradient_accumulation_steps"]
        for name, gradient in self.golden.group(f"in.{network}_grad{call}").items():
            p = self.parameters[network][name]
            p.grad = gradient / total if p.grad is None else p.grad + gradient / total
        self.calls[network] += 1
        self.note(f"backward_{network}", call=call)

    def update(self, network: str) -> None:
        micro_batches = [lambda: self.backward(network)] * self.config[
            "gradient_accumulation_steps"
        ]
        limit = self.config[f"max_grad_norm_{network}"]
        done = update(self.optimizers[network], micro_batches, limit)
        assert done.applied
        self.note(f"clip_{network}", max_norm=limit, norm_before=done.norm)
        number = self.updates[network]
        self.note(f"optimizer_step_{network}", n=number)
        self.updates[network] += 1
        for name, parameter in self.parameters[network].items():
            assert_close(parameter, self.golden, f"out.{network}_after{number}.{name}", TRACE)

    def run(self) -> None:
        while True:
            for event in plan_iteration(self.step, self.loop, has_ema=self.ema is not None):
                if event == "stop":
                    return
                self.do(event)

    def do(self, event: str) -> None:
        generator = self.parameters["generator"]
        if event.startswith("update_") and event != "update_ema":
            self.update(event.removeprefix("update_"))
        elif event == "update_ema":
            assert self.ema is not None
            update_ema(self.ema, generator, self.config["ema_weight"])
            for name, average in self.ema.items():
                assert_close(average, self.golden, f"out.ema_after{self.num_ema}.{name}", TRACE)
            self.note("ema_update", n=self.num_ema)
            self.num_ema += 1
        elif event == "advance":
            self.step += 1
        elif event == "create_ema":
            self.ema = create_ema(generator)
            self.note("ema_create", decay=self.config["ema_weight"])
        else:
            self.note("save", **self.checkpoint())

    def checkpoint(self) -> dict:
        """What the reference writes: not the average in the very step that made it (06 §11)."""
        saved = {"generator": len(self.parameters["generator"])}
        saved["critic"] = len(self.parameters["critic"])
        if self.ema is not None and self.step > self.config["ema_start_step"]:
            saved["generator_ema"] = len(self.ema)
        return {"file": f"checkpoint_model_{self.step:06d}/model.pt", "keys": saved}


def check_trainer_trace(golden: Golden) -> None:
    replay = Replay(golden)
    replay.run()
    stated = golden.meta["events"]
    assert len(replay.events) == len(stated)
    for found, expected in zip(replay.events, stated, strict=True):
        for key, value in expected.items():
            if key == "norm_before":
                assert abs(found[key] - value) <= TRACE * value
            elif key != "batch":
                assert found[key] == value, (found, expected)
    check_batches([e["batch"] for e in stated if "batch" in e])


def check_batches(batches: list[list[str]]) -> None:
    """Every micro-batch of either network takes the next of one endless, repeating order."""
    period = next((i for i in range(1, len(batches)) if batches[i] == batches[0]), len(batches))
    assert all(batch == batches[i % period] for i, batch in enumerate(batches))


CHECKS = {
    "tables": check_tables,
    "reward_scale": check_reward_scale,
    "trainable_filter": check_trainable_filter,
    "trainer_trace": check_trainer_trace,
}
