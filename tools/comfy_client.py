"""Run a Hallo-Live workflow on a ComfyUI server and save its stream while it is being made.

    python tools/comfy_client.py "workflows/api/Streaming avatar.json" -o clip.mp4 \
        --set 5.seed=7 --server http://127.0.0.1:8188

Queues the workflow (API form), finds its live stream, writes every byte as it comes, and tells the
progress on standard error; `-o -` writes to standard output, for a player. Ctrl-C cancels the run
on the server; what has come until then plays. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

POLL_SECONDS = 0.5


def call(url: str, body: object = None) -> dict[str, Any]:
    """GET, or POST of JSON; returns the JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error
    except urllib.error.URLError as error:
        raise SystemExit(f"{url}: {error.reason}") from error


def read(path: Path) -> dict:
    """A workflow in API form."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from None
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(isinstance(node, dict) and "class_type" in node for node in nodes):
        raise SystemExit(f"{path} is not in API form; see workflows/api")
    return workflow


def change(workflow: dict, settings: list[str]) -> None:
    """Apply NODE.INPUT=VALUE; the value is JSON if it can be read as that."""
    for setting in settings:
        name, _, text = setting.partition("=")
        node, _, field = name.partition(".")
        if field not in workflow.get(node, {}).get("inputs", {}):
            raise SystemExit(f"{setting}: the workflow has no input {name}")
        try:
            workflow[node]["inputs"][field] = json.loads(text)
        except json.JSONDecodeError:
            workflow[node]["inputs"][field] = text


def outcome(server: str, prompt: str) -> str | None:
    """How the prompt ended; None while it has not."""
    entry = call(f"{server}/history/{prompt}").get(prompt)
    return entry and entry.get("status", {}).get("status_str", "success")


def find_stream(server: str, prompt: str) -> dict:
    """Wait until the run has a stream; its status."""
    while True:
        for session in call(f"{server}/hallolive/sessions")["sessions"]:
            if session["tags"].get("prompt_id") == prompt:
                return session
        if (ended := outcome(server, prompt)) is not None:
            raise SystemExit(f"The run ended without a stream: {ended}; see {server}/history")
        time.sleep(POLL_SECONDS)


def save(server: str, stream: str, file: BinaryIO) -> None:
    """Write the stream while it is made."""
    told = 0.0
    url = f"{server}/hallolive/stream/{stream}?from=start"
    with urllib.request.urlopen(url) as answer:
        while data := answer.read1(2**16):
            file.write(data)
            file.flush()
            if time.monotonic() - told > POLL_SECONDS:
                told = time.monotonic()
                status = call(f"{server}/hallolive/sessions/{stream}")
                speed = f"{status['speed']:.2f} x real time"
                print(
                    f"block {status['block']} of {status['num_blocks']}, {speed}", file=sys.stderr
                )


def main() -> None:
    """Queue, follow, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workflow", type=Path, help="JSON in API form, as in workflows/api")
    parser.add_argument("-o", "--output", default="clip.mp4", help="file, or - for standard output")
    parser.add_argument(
        "--server", default="http://127.0.0.1:8188", help="of ComfyUI; default: %(default)s"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="change an input; may be repeated",
    )
    options = parser.parse_args()
    server = options.server.rstrip("/")
    workflow = read(options.workflow)
    change(workflow, options.set)
    target = Path(options.output)
    if target.is_dir() or not target.parent.is_dir():
        raise SystemExit(f"{target}: name a file in a folder that exists")
    prompt = call(f"{server}/prompt", {"prompt": workflow})["prompt_id"]
    print(f"queued as {prompt}", file=sys.stderr)
    try:
        stream = find_stream(server, prompt)["id"]
        if options.output == "-":
            save(server, stream, sys.stdout.buffer)
        else:
            with target.open("wb") as file:
                save(server, stream, file)
        status = call(f"{server}/hallolive/sessions/{stream}")
        print(f"{status['state']}: {status['error'] or options.output}", file=sys.stderr)
    except (KeyboardInterrupt, OSError) as error:
        call(f"{server}/queue", {"delete": [prompt]})
        call(f"{server}/interrupt", {"prompt_id": prompt})
        wished = isinstance(error, KeyboardInterrupt | BrokenPipeError)
        raise SystemExit("stopped" if wished else f"stopped: {error}") from None


if __name__ == "__main__":
    main()
