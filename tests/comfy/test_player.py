"""The player on ComfyUI's page, in a real browser; skipped without Chromium or Playwright."""

import json
import time
import uuid
from pathlib import Path

import pytest

from .canvas import Canvas
from .graphs import SECONDS, SIDE

ROOT = Path(__file__).parents[2]
LONG = 30

SAMPLER, PLAYER = "HalloLiveStreamSampler", "HalloLivePlayer"
TIME = "document.querySelector('.hl-video').currentTime"
DURATION = "document.querySelector('.hl-video').duration"
SOUND = "document.querySelector('.hl-video').webkitAudioDecodedByteCount"
STATE = "document.querySelector('.hl-player').dataset.state"
MODE = "document.querySelector('.hl-player').dataset.mode"
NODE = f"window.app.graph.nodes.find((node) => node.comfyClass === '{SAMPLER}')"


class PlayerCanvas(Canvas):
    """The page with our streaming workflow on it."""

    def load(self, *, seed: int, seconds: int, workflow_id: str = "", **extra) -> None:
        """Our workflow from its file, with tiny models."""
        graph = tiny_canvas(seed=seed, seconds=seconds) | extra
        if workflow_id:
            graph["id"] = workflow_id
        self.open(graph)
        self.wait("document.querySelector('.hl-player') !== null")

    def wait_until_playing(self) -> None:
        self.wait(f"{TIME} > 0.2 && {STATE} === 'running'")


def tiny_canvas(*, seed: int, seconds: int) -> dict:
    """The shipped canvas workflow, with tiny models and a size a CPU makes in a moment."""
    text = (ROOT / "workflows" / "Streaming avatar.json").read_text(encoding="utf-8")
    graph = json.loads(text)
    for node in graph["nodes"]:
        values = node.get("widgets_values")
        if node["type"] == "HalloLiveModelLoader":
            values[0] = "hallolive_dit.safetensors"
        elif node["type"] == "CLIPLoader":
            node["type"] = "HalloLiveTextEncoderLoader"
            node["widgets_values"] = ["models_t5_umt5-xxl-enc-bf16.pth"]
            node["inputs"] = []
        elif node["type"] == "HalloLiveVAELoader":
            values[0] = "Wan2.2_VAE.pth"
        elif node["type"] == SAMPLER:
            values[:5] = [seconds, seed, "fixed", SIDE, SIDE]
    return graph


@pytest.fixture(params=[False, True], ids=["classic", "Nodes 2.0"])
def either(request, browser, server):
    canvas = PlayerCanvas(browser, server, nodes_2=request.param)
    yield canvas
    canvas.close()
    assert canvas.complaints == []


@pytest.fixture(scope="module")
def shared(browser, server):
    canvas = PlayerCanvas(browser, server)
    yield canvas
    canvas.close()


@pytest.fixture
def canvas(shared):
    shared.complaints.clear()
    yield shared
    assert shared.complaints == []


def test_picture_and_sound_play_before_the_clip_is_made_and_finish_keeps_them(
    either, tmp_path, request
):
    mode = request.node.callspec.id
    either.load(seed=len(mode), seconds=LONG)  # another one for each mode, else it is cached
    either.press_run()
    either.wait_until_playing()
    assert either.ask(MODE) == "mse"
    earlier = either.ask(TIME)
    either.wait(f"{TIME} > {earlier + 0.3} && {STATE} === 'running'")
    either.wait(f"{SOUND} > 0")
    assert "Block" in either.page.inner_text(".hl-line")
    assert "first picture" in either.page.inner_text(".hl-numbers")
    either.shoot(f"playing {mode}", tmp_path)
    either.page.click(".hl-finish")
    either.wait(f"{STATE} === 'finished'")
    either.wait(f"{MODE} === 'file'")
    either.wait(f"{DURATION} > 0.8")
    duration = either.ask(DURATION)
    assert duration < LONG / 2 and abs((duration * 24 + 3) % 24) < 0.1
    assert "Done" in either.page.inner_text(".hl-line")
    either.shoot(f"finished {mode}", tmp_path)


def test_the_host_s_interrupt_shows_what_was_made(canvas):
    canvas.load(seed=202, seconds=LONG)
    canvas.press_run()
    canvas.wait_until_playing()
    canvas.ask("() => window.app.api.interrupt(null)")
    canvas.wait(f"{STATE} === 'stopped' && {MODE} === 'file' && {DURATION} > 0")
    assert "Stopped" in canvas.page.inner_text(".hl-line")


def test_a_cached_rerun_shows_the_file(canvas):
    canvas.load(seed=203, seconds=1)
    canvas.press_run()
    canvas.wait(f"{MODE} === 'file'")
    clip = canvas.ask("document.querySelector('.hl-video').src")
    canvas.load(seed=203, seconds=1, workflow_id=str(uuid.uuid4()))
    assert canvas.ask(MODE) != "file"  # the clip of another workflow is not shown
    canvas.press_run()
    canvas.wait(f"{MODE} === 'file' && {STATE} === 'finished'")
    assert canvas.ask("document.querySelector('.hl-video').src") == clip


def test_after_a_reload_the_page_goes_on_with_the_stream_and_then_shows_the_file(canvas):
    canvas.load(seed=204, seconds=LONG)
    canvas.press_run()
    canvas.wait_until_playing()
    canvas.page.reload(wait_until="domcontentloaded")
    canvas.wait_until_playing()
    canvas.page.click(".hl-finish")
    canvas.wait(f"{STATE} === 'finished' && {MODE} === 'file'")
    canvas.page.reload(wait_until="domcontentloaded")
    canvas.wait(f"{STATE} === 'finished' && {MODE} === 'file' && {DURATION} > 0.8")


def test_a_separate_player_shows_the_stream_of_the_sampler_before_it(canvas):
    canvas.load(seed=205, seconds=LONG)
    canvas.ask(
        f"""() => {{
            const player = window.LiteGraph.createNode("{PLAYER}");
            window.app.graph.add(player);
            {NODE}.connect(0, player, 0);
        }}"""
    )
    both = "[...document.querySelectorAll('.hl-player')]"
    canvas.wait(f"{both}.length === 2")
    canvas.press_run()
    canvas.wait(f"{both}.every((player) => player.querySelector('video').currentTime > 0.2)")
    canvas.page.locator(".hl-finish").last.click()
    canvas.wait(f"{both}.every((player) => player.dataset.mode === 'file')")


def test_the_latency_choice_only_sets_inputs_that_can_be_seen(canvas):
    canvas.load(seed=206, seconds=1)
    set_widget = """(value) => {
        const widget = NODE.widgets.find(({ name }) => name === "latency");
        widget.value = value;
        widget.callback(value);
        const vae = NODE.getInputNode(NODE.findInputSlot("vae"));
        return [NODE, vae].map((node) => node.widgets.find(
            ({ name }) => ["lookahead", "video_vae"].includes(name)).value);
    }""".replace("NODE", NODE)
    assert canvas.ask(set_widget, "conversation") == [0, "taew2_2.safetensors"]
    assert canvas.ask(set_widget, "best") == [30, "Wan2.2_VAE.pth"]
    assert canvas.ask(set_widget, "balanced") == [5, "Wan2.2_VAE.pth"]
    sent = canvas.ask("async () => JSON.stringify((await window.app.graphToPrompt()).output)")
    (inputs,) = (n["inputs"] for n in json.loads(sent).values() if n["class_type"] == SAMPLER)
    assert inputs["lookahead"] == 5 and not {"latency", "player"} & set(inputs)
    saved = json.loads(canvas.ask("() => JSON.stringify(window.app.graph.serialize())"))
    (values,) = (n["widgets_values"] for n in saved["nodes"] if n["type"] == SAMPLER)
    assert values[:7] == [1, 206, "fixed", SIDE, SIDE, 5, False]
    assert "balanced" not in values
    change = "NODE.widgets.find(({ name }) => name === 'lookahead')".replace("NODE", NODE)
    canvas.ask(f"() => {{ const w = {change}; w.value = 7; w.callback(7); }}")
    latency = f"{NODE}.widgets.find(({{ name }}) => name === 'latency').value"
    assert canvas.ask(latency) == "custom"


def test_the_report_has_versions_settings_and_numbers_but_not_the_prompt(canvas):
    canvas.load(seed=207, seconds=SECONDS)
    canvas.press_run()
    canvas.wait(f"{STATE} === 'finished'")
    canvas.page.click(".hl-copy")
    canvas.wait("document.querySelector('.hl-copy').textContent === 'Copied'")
    report = canvas.ask("() => navigator.clipboard.readText()")
    for words in ("ComfyUI 0.", "PyTorch", "seed=207", "Wan2.2_VAE.pth", '"first_after"', "memory"):
        assert words in report, report
    assert "kitchen" not in report and str(canvas.server.base) not in report


def test_markup_in_a_message_is_shown_as_text(canvas):
    canvas.load(seed=208, seconds=1)
    message = "<img src=x onerror='window.hacked = 1'>"
    canvas.ask(
        f"""(error) => window.app.api.dispatchEvent(new CustomEvent("hallolive.stream", {{
            detail: {{
                id: "x", state: "failed", error, seconds: 0, speed: 0, first_after: null,
                block: 0, num_blocks: 0,
                tags: {{ node: String({NODE}.id), workflow: window.app.graph.id }},
            }},
        }}))""",
        message,
    )
    assert message in canvas.page.inner_text(".hl-line")
    assert canvas.ask("document.querySelector('.hl-line img')") is None
    assert canvas.ask("window.hacked") is None


def test_a_removed_node_stops_watching(canvas):
    canvas.load(seed=209, seconds=LONG)
    canvas.press_run()
    canvas.wait_until_playing()
    canvas.ask(f"() => window.app.graph.remove({NODE})")
    deadline = time.monotonic() + 20
    while any(s["readers"] for s in canvas.server.get("/hallolive/sessions")["sessions"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    canvas.ask("() => window.app.api.interrupt(null)")


@pytest.mark.slow
def test_where_the_page_s_policy_forbids_media_source_the_plain_url_plays(browser, server):
    canvas = PlayerCanvas(browser, server, policy=True)
    try:
        canvas.load(seed=210, seconds=LONG)
        canvas.press_run()
        canvas.wait(f"{MODE} === 'progressive'")
        canvas.wait_until_playing()
        canvas.page.click(".hl-stop")
        canvas.wait(f"{STATE} === 'stopped' && {MODE} === 'file'")
    finally:
        canvas.close()
