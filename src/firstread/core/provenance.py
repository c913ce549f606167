"""The trail of a reading: which stage ran, with which settings and weights, for how long."""

from __future__ import annotations

import hashlib
import platform
import resource
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Step:
    """One stage that ran. seconds: wall clock; peak_mb: the process's peak memory when it had ended."""

    stage: str
    settings: str
    weights: str | None
    seconds: float
    peak_mb: float


def weights_hash(module: nn.Module) -> str | None:
    """The first 16 hex digits of the SHA-256 over all parameters and buffers; None for a module without any."""
    state = module.state_dict()
    if not state:
        return None
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder in name order."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def peak_memory_mb() -> float:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("firstread", "torch", "numpy", "scipy", "pydicom", "highdicom", "nibabel", "h5py"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
