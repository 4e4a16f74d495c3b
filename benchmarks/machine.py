"""What the figures were measured on and with."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = ("modelserver", "torch", "transformers", "aiohttp", "uvloop")


def describe_machine() -> dict[str, str]:
    """Processor, memory and versions, by name."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return {
        "machine": f"{os.cpu_count()} cores of {_processor()}, {memory_gib:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "wrk": subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split()[1],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
