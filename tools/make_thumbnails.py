"""Run every workflow with the tiny random model, and make its picture for the template browser.

    python -m hallo_live_core make-tiny --comfyui COMFYUI --judges
    python tools/make_thumbnails.py http://127.0.0.1:8188 ["Streaming avatar" ...]

The address is that of a running ComfyUI. The pictures show what came out, noise, and say so.
"""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageFont

if __package__:
    from .workflow_graphs import LIGHT_VAE, TINY
else:  # run as a script
    from workflow_graphs import LIGHT_VAE, TINY

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"

CLIP = {"seconds": 2.0, "width": 256, "height": 128}
COLUMNS, ROWS = 2, 2
CAPTION = "tiny model, random weights"
CAPTION_HEIGHT = 32
FONT_SIZE = 17
QUALITY = 60
"""Of JPEG; noise does not compress well."""

POLL_SECONDS = 0.5


def with_tiny_models(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with the files that `make-tiny` writes, and short."""
    for node in graph.values():
        inputs = node["inputs"]
        if node["class_type"] == "CLIPLoader":
            node["class_type"] = "HalloLiveTextEncoderLoader"
            node["inputs"] = {"text_encoder": TINY["text_encoder"]}
        elif node["class_type"] == "HalloLiveModelLoader":
            inputs["model_name"] = TINY["transformer"]
        elif node["class_type"] == "HalloLiveVAELoader":
            light = inputs["video_vae"] == LIGHT_VAE["name"]
            inputs["video_vae"] = LIGHT_VAE["name"] if light else TINY["video_vae"]
        elif "width" in inputs and "seed" in inputs:
            inputs |= CLIP
    return graph


def made_clip(server: str, graph: dict[str, Any]) -> bytes:
    """Queue the graph, wait, and fetch the video that it saved."""
    body = json.dumps({"prompt": graph}).encode()
    request = urllib.request.Request(f"{server}/prompt", body, {"Content-Type": "application/json"})
    prompt_id = json.loads(fetch(request))["prompt_id"]
    while prompt_id not in (history := json.loads(fetch(f"{server}/history/{prompt_id}"))):
        time.sleep(POLL_SECONDS)
    (number,) = (n for n, node in graph.items() if node["class_type"] == "SaveVideo")
    outputs = history[prompt_id]["outputs"]
    if number not in outputs:
        raise SystemExit(json.dumps(history[prompt_id]["status"]["messages"][-1]))
    saved = outputs[number]["images"][0]
    return fetch(f"{server}/view?{urllib.parse.urlencode(saved)}")


def fetch(request: str | urllib.request.Request) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def thumbnail(clip: bytes) -> Image.Image:
    """Some frames of a clip, evenly spread, with a caption below."""
    with av.open(io.BytesIO(clip)) as file:
        frames = [frame.to_image() for frame in file.decode(video=0)]
    count = COLUMNS * ROWS
    chosen = [frames[i * (len(frames) - 1) // (count - 1)] for i in range(count)]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width * COLUMNS, height * ROWS + CAPTION_HEIGHT))
    for place, frame in enumerate(chosen):
        sheet.paste(frame, (place % COLUMNS * width, place // COLUMNS * height))
    ImageDraw.Draw(sheet).text(
        (sheet.width // 2, sheet.height - CAPTION_HEIGHT // 2),
        CAPTION,
        fill="white",
        anchor="mm",
        font=ImageFont.load_default(FONT_SIZE),
    )
    return sheet


def main() -> None:
    """Make the pictures of the workflows that are named, or of all."""
    server, *names = sys.argv[1:]
    for name in names or sorted(path.stem for path in WORKFLOWS.glob("*.json")):
        graph = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
        picture = thumbnail(made_clip(server, with_tiny_models(graph)))
        picture.save(WORKFLOWS / f"{name}.jpg", quality=QUALITY, optimize=True)
        print(f"{name}.jpg")


if __name__ == "__main__":
    main()
