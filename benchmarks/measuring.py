"""What the benchmarks share: the machine they ran on, and the memory of a process."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metaq


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "metaq": metaq.__version__,
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def resident_kilobytes(resets_peak: bool) -> int:
    """The peak of this process' resident size, or its present size, from which a new peak is then counted (Linux)."""
    if resets_peak:
        Path("/proc/self/clear_refs").write_text("5")
    key = "VmRSS:" if resets_peak else "VmHWM:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
