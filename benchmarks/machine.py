"""What the tables say of the machine."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

__all__ = ["processor", "version"]


def processor(device: torch.device) -> str:
    """Name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "CPU"
