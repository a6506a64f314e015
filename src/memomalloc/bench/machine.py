"""What the figures were taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

#: Packages whose version can change a figure.
PACKAGES = ("memomalloc", "torch", "torchvision", "transformers", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, kernel and the settings that matter to an allocator."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "transparent_huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average": os.getloadavg()[0],
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _field(path: str, name: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return platform.machine()


def _chosen(path: str) -> str:
    """The word in brackets, which is how the kernel shows which of several settings is in force."""
    try:
        return Path(path).read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "unknown"
