"""Runs `python -m training` and, if asked, dies by SIGKILL: before save number N, or within it."""

from __future__ import annotations

import os
import signal
import sys

import torch

from training import checkpointing, cli

torch.set_num_threads(1)


def die_in(where: str, save_number: int) -> None:
    calls = {"saves": 0}
    save, write = checkpointing.save, checkpointing.write_safetensors

    def counted_save(*args, **kwargs):
        calls["saves"] += 1
        if where == "before" and calls["saves"] == save_number:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(*args, **kwargs)

    def half_write(target, tensors, **kwargs):
        if where == "within" and calls["saves"] == save_number:
            target.with_name(target.name + ".part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(target, tensors, **kwargs)

    checkpointing.save, checkpointing.write_safetensors = counted_save, half_write


if __name__ == "__main__":
    if death := os.environ.get("DIE"):
        where, number = death.split(":")
        die_in(where, int(number))
    raise SystemExit(cli.main(sys.argv[1:]))
