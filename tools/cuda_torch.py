"""Find a torch on this machine that already drives a GPU, so that `make` need not download one.

Prints the folder it was installed to and writes its versions, as pip constraints, to the file
given; prints nothing and writes nothing where there is none. `make` runs this with the host's
Python, before its own environment exists.
"""

from __future__ import annotations

import sys
from pathlib import Path


def site_of_cuda_torch() -> tuple[Path, str] | None:
    """Folder and public version of a torch that sees a CUDA device, or None."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return Path(torch.__file__).parents[1], torch.__version__.split("+")[0]


def constraints(version: str) -> str:
    """Keep this torch, and let torchaudio (which names no torch) be of the same release."""
    release = ".".join(version.split(".")[:2])
    return f"torch=={version}\ntorchaudio=={release}.*\n"


def main() -> None:
    """Answer `make`."""
    found = site_of_cuda_torch()
    if found is not None:
        site, version = found
        Path(sys.argv[1]).write_text(constraints(version))
        print(site)


if __name__ == "__main__":
    main()
