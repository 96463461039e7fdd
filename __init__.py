"""ComfyUI-HalloLive: what ComfyUI imports. Everything else is in `nodes` and `hallo_live_core`."""

WEB_DIRECTORY = "./web"
"""Where the host finds what pages load: the player."""

if __package__:  # absent when pytest or a linter opens this file on its own
    from .nodes import comfy_entrypoint as comfy_entrypoint
