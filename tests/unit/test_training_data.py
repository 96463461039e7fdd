"""Training data: what is written can be read again, and damage is found before a run begins."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hallo_live_core.errors import CheckpointError, HalloLiveError, PromptError, RequestError
from training.config_reader import RecipeError, build
from training.data.embeddings import TextStore, unpadded
from training.data.lmdb_layout import LmdbPairs, write_lmdb
from training.data.ode_pairs import ClipSize, open_pairs
from training.data.prompts import prompt_key, read_prompts
from training.data.sampler import EndlessOrder
from training.data.shards import DataError, ShardStore, ShardWriter, finished_keys
from training.parallel import Processes
from training.phases.batches import Batches, prompts_of
from training.phases.distill import Distillation
from training.phases.ode_init import ODEInit
from training.phases.pairs import make_pairs
from training.recipe import Recipe

from ..training_world import CONFIG, PROMPTS, SIZE, STEPS, recipe_values, write_pairs, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def test_prompts_are_stripped_and_come_once_in_the_order_of_the_table(tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text('image_path,text_prompt\na,"one, <S>hi<E>"\nb, two \nc,\nd,two\n')
    assert read_prompts(table) == ["one, <S>hi<E>", "two"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("prompt\nhello\n", "has no column text_prompt"), ("text_prompt\n\n", "has no prompts")],
)
def test_a_table_without_prompts_is_refused(tmp_path, content, problem):
    table = tmp_path / "prompts.csv"
    table.write_text(content)
    with pytest.raises(PromptError, match=problem):
        read_prompts(table)


def fill(folder, count, *, worker=0, first=0):
    with ShardWriter(folder, worker=worker, samples_per_shard=2) as writer:
        for i in range(first, first + count):
            writer.add(f"k{i}", {"x": torch.full((3,), float(i))}, {"n": i})


def test_several_writers_fill_one_folder(tmp_path):
    fill(tmp_path, 3)
    fill(tmp_path, 3, worker=1, first=3)
    fill(tmp_path, 1, first=6)
    store = ShardStore(tmp_path, verify=True)
    assert [store[key].info["n"] for key in store.keys] == list(range(7))
    assert torch.equal(store["k5"].tensors["x"], torch.full((3,), 5.0))


def test_a_writer_killed_within_a_line_goes_on_behind_its_last_whole_one(tmp_path):
    fill(tmp_path, 4)
    manifest = tmp_path / "manifest-00000.jsonl"
    text = manifest.read_text()
    manifest.write_text(text[: text.index("\n") + 20])
    assert finished_keys(tmp_path) == {"k0", "k1"}
    fill(tmp_path, 2, first=2)
    assert len(ShardStore(tmp_path, verify=True)) == 4
    assert len([json.loads(line) for line in manifest.read_text().splitlines()]) == 2


def test_damage_of_shards_is_found_when_they_are_opened(tmp_path):
    fill(tmp_path, 4)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    content = bytearray(second.read_bytes())
    second.write_bytes(content[:-5])
    with pytest.raises(DataError, match="truncated"):
        ShardStore(tmp_path)
    content[-1] ^= 1
    second.write_bytes(content)
    ShardStore(tmp_path)
    with pytest.raises(DataError, match="altered"):
        ShardStore(tmp_path, verify=True)
    first.unlink()
    with pytest.raises(DataError, match=r"shard-00000-000000.*missing"):
        ShardStore(tmp_path)


@pytest.mark.parametrize("line", ["{", "[]", '{"file": "shard"}'])
def test_a_damaged_manifest_is_named_with_the_line(tmp_path, line):
    fill(tmp_path, 2)
    with (tmp_path / "manifest-00000.jsonl").open("a") as manifest:
        manifest.write(f"{line}\n")
    with pytest.raises(DataError, match=r"manifest-00000\.jsonl is damaged.*line 2"):
        ShardStore(tmp_path)


def test_trajectories_survive_the_way_through_the_reference_layout(world, tmp_path):
    pytest.importorskip("lmdb")
    pairs = open_pairs(world / "pairs", SIZE, CONFIG, steps=STEPS)
    assert write_lmdb(pairs, tmp_path / "lmdb") == len(PROMPTS)
    back = open_pairs(tmp_path / "lmdb", SIZE, CONFIG, steps=STEPS)
    assert isinstance(back, LmdbPairs)
    for key, old in zip(back.keys, pairs.keys, strict=True):
        assert back[key].info["prompt"] == pairs[old].info["prompt"]
        for name, tensor in pairs[old].tensors.items():
            assert torch.equal(back[key].tensors[name], tensor.half().float())
    del back  # one process opens an environment once
    with pytest.raises(DataError, match=r"video_latents.*do not fit"):
        open_pairs(tmp_path / "lmdb", ClipSize(4, 20, 2, 4), CONFIG, steps=STEPS)


def test_a_truncated_row_of_the_reference_layout_is_found_when_it_is_opened(world, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    write_lmdb(open_pairs(world / "pairs", SIZE, CONFIG, steps=STEPS), tmp_path / "lmdb")
    with lmdb.open(str(tmp_path / "lmdb")) as data, data.begin(write=True) as transaction:
        transaction.put(b"audio_latents_3_data", b"\0\0")
    with pytest.raises(DataError, match=r"Row 3 of audio_latents .*truncated"):
        open_pairs(tmp_path / "lmdb", SIZE, CONFIG, steps=STEPS)


def test_the_prompts_of_trajectories_are_known_without_reading_tensors(world, tmp_path):
    pytest.importorskip("lmdb")
    write_lmdb(open_pairs(world / "pairs", SIZE, CONFIG, steps=STEPS), tmp_path / "lmdb")

    class Unread(LmdbPairs):
        def __getitem__(self, key):
            raise AssertionError("a trajectory has been read")

    shapes = {name: (STEPS + 1, *shape) for name, shape in SIZE.shapes(CONFIG).items()}
    assert sorted(prompts_of(Unread(tmp_path / "lmdb", shapes))) == sorted(PROMPTS)


def test_samples_without_a_prompt_are_refused(tmp_path):
    fill(tmp_path, 1)
    with pytest.raises(DataError, match=r"1 samples have no prompt"):
        prompts_of(ShardStore(tmp_path))


def test_a_student_of_other_steps_learns_from_trajectories_of_as_many_states(world, tmp_path):
    write_pairs(tmp_path / "pairs", steps=2)
    groups = {"data": {"pairs": str(tmp_path / "pairs")}, "schedule": {"steps": [1000, 500]}}
    recipe = build(Recipe, recipe_values(world, "train-ode", **groups))
    ODEInit(recipe, Processes(recipe.parallel, cpu=True))
    assert "does not fit" in refused(world, "train-ode", DataError, data=groups["data"])


class Taste:
    """Likes long prompts, and cannot judge one clip."""

    def score(self, clips, prompts):
        values = [math.nan if p == PROMPTS[0] else float(len(p)) for p in prompts]
        return {"taste": torch.tensor(values)}


@pytest.fixture(scope="module")
def scored(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    sampling = {"num_steps": 9, "skip_layer": None}
    groups = {"data": {"pairs": str(folder)}, "sampling": sampling}
    recipe = build(Recipe, recipe_values(world, "make-ode-pairs", **groups))
    make_pairs(recipe, Processes(recipe.parallel, cpu=True, learns=False), Taste())
    return folder


def test_stage_1_leaves_out_trajectories_that_judges_like_less(world, scored):
    lengths = sorted(len(p) for p in PROMPTS[1:])
    data = {"pairs": str(scored), "least_scores": {"taste": lengths[2]}}
    recipe = build(Recipe, recipe_values(world, "train-ode", data=data))
    pairs = open_pairs(scored, SIZE, CONFIG, steps=STEPS)
    batches = Batches(pairs, recipe, Processes(recipe.parallel, cpu=True))
    kept = {str(pairs.info(batches.order[i])["prompt"]) for i in range(len(PROMPTS))}
    assert kept == {p for p in PROMPTS[1:] if len(p) >= lengths[2]}


def test_a_limit_for_scores_that_no_judge_has_given_is_refused(world, scored):
    data = {"pairs": str(scored), "least_scores": {"sync": 3.0}}
    assert "No sample has a score of 'sync'" in refused(world, "train-ode", DataError, data=data)
    with pytest.raises(RecipeError, match="train-ode"):
        build(Recipe, recipe_values(world, "train-hpdmd", data=data))


def test_stage_2_leaves_out_prompts_of_the_skip_list(world, tmp_path):
    left_out, *kept = sorted(PROMPTS)
    (tmp_path / "skip.txt").write_text(f"{prompt_key(left_out)}\n")
    values = recipe_values(world, "train-hpdmd", data={"skip": str(tmp_path / "skip.txt")})
    recipe = build(Recipe, values)
    phase = Distillation(recipe, Processes(recipe.parallel, cpu=True))
    assert sorted({phase.order[i] for i in range(len(kept))}) == kept


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order():
    keys = [f"k{i}" for i in range(10)]
    order = EndlessOrder(keys, seed=1, skip={"k3"})
    epochs = [[order[e * 9 + i] for i in range(9)] for e in range(2)]
    assert all(sorted(epoch) == sorted(set(keys) - {"k3"}) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [order[i] for i in range(18)] == epochs[0] + epochs[1]
    assert [EndlessOrder(keys, seed=2)[i] for i in range(9)] != epochs[0]


def test_a_run_that_goes_on_with_other_data_says_so(caplog):
    order = EndlessOrder(["a", "b", "c"], seed=1)
    order.check(order.fingerprint)
    order.check(None)  # a checkpoint from before it was kept
    assert not caplog.records
    EndlessOrder(["a", "b", "c", "d"], seed=1).check(order.fingerprint)
    assert "not those of the checkpoint (3 samples" in caplog.text


def test_embeddings_are_padded_to_the_longest_and_no_further(world):
    text = TextStore(world / "text", text_dim=64)
    context = text.context(PROMPTS[:2])
    assert context.video.shape == (2, 5, 64)
    assert not context.video[0, 4:].any()
    assert text.negative(3).video.shape[:2] == (3, 2)
    assert text.negative(3).audio.shape[:2] == (3, 3)
    assert text.prompts == sorted(PROMPTS, key=text.prompts.index)
    assert torch.equal(unpadded(torch.tensor([[1.0], [2.0], [0.0]])), torch.tensor([[1.0], [2.0]]))


def refused(world, phase, error, **groups):
    recipe = build(Recipe, recipe_values(world, phase, **groups))
    processes = Processes(recipe.parallel, cpu=True)
    make = {"train-ode": ODEInit, "train-hpdmd": Distillation}[phase]
    with pytest.raises(error) as caught:
        make(recipe, processes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_refused_before_it_begins_when_its_data_do_not_fit(world, tmp_path):
    size = {"video_latents": 4, "audio_latents": 20}
    message = refused(world, "train-ode", DataError, clip=size)
    assert "does not fit the recipe" in message
    (tmp_path / "text").mkdir()
    message = refused(world, "train-ode", DataError, data={"text": str(tmp_path / "text")})
    assert "holds no data" in message
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("text_prompt\nsomething new\n")
    message = refused(world, "train-hpdmd", DataError, data={"prompts": str(prompts)})
    assert "1 prompts have no embedding" in message


@pytest.mark.parametrize(
    "groups",
    [
        {"scores": {"lowest": 300, "up_to_exit": True}},
        {"scores": {"lowest": 300}, "dmd": {"decoupled": True}},
    ],
)
def test_score_times_that_an_exit_step_leaves_none_of_are_refused_before_the_run(world, groups):
    message = refused(world, "train-hpdmd", RequestError, **groups)
    assert "no score time between these limits" in message and "300 to 250" in message


def test_networks_of_different_sizes_and_absent_judges_are_refused(world):
    larger = {"teacher": str(world / "larger.safetensors")}
    assert "another size than the student" in refused(
        world, "train-hpdmd", CheckpointError, model=larger
    )
    rewards = {"judges": {"sync": "both"}}
    assert "no judge" in refused(world, "train-hpdmd", HalloLiveError, rewards=rewards)
