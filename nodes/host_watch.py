"""Calls to ComfyUI that tell people where a run is, and hear from them."""

from __future__ import annotations

import sys
from typing import Any

import comfy.model_management
import comfy.utils
import comfy_execution.utils
import torch
from PIL import Image

PREVIEW_PIXELS = 512
"""Longest side of the preview under a node."""


class ProgressReport:
    """The bar, the preview and the line of text of one running node."""

    def __init__(self, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._node_id = node_id

    def advance(self, done: int, total: int) -> None:
        """Move the bar; raises the host's interruption when the user asked to stop.

        total: 0 where there is no end, and then the bar stays empty.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(*((done, total) if total else (0, 1)))

    def show(self, frame: torch.Tensor) -> None:
        """Show a frame, uint8 [h, w, 3], under the node."""
        picture = Image.fromarray(frame.numpy())
        self._bar.update_absolute(
            self._bar.current, self._bar.total, ("JPEG", picture, PREVIEW_PIXELS)
        )

    def say(self, text: str) -> None:
        """Show a line of text under the node, where the host can."""
        if (host := server()) is not None and self._node_id is not None:
            host.send_progress_text(text, self._node_id, host.client_id)


def interruption() -> type[Exception]:
    """What the host raises when the user has asked to stop; raising it stops a prompt quietly."""
    return comfy.model_management.InterruptProcessingException


def server() -> Any | None:
    """The host's web server; None where the host only runs tests."""
    module = sys.modules.get("server")
    return None if module is None else getattr(module.PromptServer, "instance", None)


def send_event(name: str, detail: dict[str, Any]) -> None:
    """Tell the page that queued the running prompt, or everybody if no page did."""
    if (host := server()) is not None:
        host.send_sync(name, detail, host.client_id)


def running_prompt() -> str:
    """The id of the prompt that is being executed; empty outside of one."""
    context = comfy_execution.utils.get_executing_context()
    return "" if context is None else context.prompt_id
