"""ComfyUI's page in a real browser.

Screenshots go to the folder that HALLO_LIVE_SCREENSHOTS names, else to pytest's.
"""

import os
from pathlib import Path

READY = "window.app && window.app.graph && window.app.extensionManager"
PACK_PATH = "/extensions/ComfyUI-HalloLive/"
WAIT_MS = 60_000
QUEUE_BUTTON = "[data-testid='queue-button'] button >> nth=0"


class Canvas:
    """ComfyUI's page with our workflow on it."""

    def __init__(self, browser, server, *, nodes_2: bool = False, policy: bool = False) -> None:
        for name, value in (("TutorialCompleted", True), ("VueNodes.Enabled", nodes_2)):
            server.post(f"/settings/Comfy.{name}", value)
        context = browser.new_context(
            viewport={"width": 1500, "height": 950},
            bypass_csp=not policy,  # the test server's page allows no blob: as source of a video
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.server, self.page, self.complaints = server, context.new_page(), []
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{server.port}", wait_until="domcontentloaded")
        self.wait(READY)
        self.page.keyboard.press("Escape")

    def _listen(self, message) -> None:
        place = message.location.get("url", "")
        if message.type in {"error", "warning"} and (
            PACK_PATH in place or "hallo" in message.text.lower()
        ):
            self.complaints.append(f"{message.text} ({place})")

    def ask(self, expression: str, argument=None):
        return self.page.evaluate(expression, argument)

    def wait(self, condition: str) -> None:
        """Wait until it is true; as long as the page has no player, it is not."""
        careful = f"() => {{ try {{ return {condition} }} catch {{ return false }} }}"
        self.page.wait_for_function(careful, timeout=WAIT_MS, polling=50)

    def open(self, graph: dict) -> None:
        """A workflow in the form of the canvas."""
        self.ask("(graph) => window.app.loadGraphData(graph, true, true, 'test')", graph)

    def press_run(self) -> None:
        self.page.locator(QUEUE_BUTTON).click()

    def shoot(self, name: str, folder: Path) -> None:
        folder = Path(os.environ.get("HALLO_LIVE_SCREENSHOTS", folder))
        self.page.screenshot(path=folder / f"{name}.png")

    def close(self) -> None:
        self.page.context.close()
