"""What the figures were taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Vector instructions, the widest first.
VECTORS = ("avx512f", "avx2", "sse4_2", "sve2", "sve", "asimd")

#: Packages whose version can change a figure.
PACKAGES = ("memomalloc", "torch", "torchvision", "transformers", "executorch", "omnimalloc", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, kernel and the settings that matter to an allocator."""
    processor = _processor()
    flags = processor.get("flags", processor.get("Features", "")).split()
    return {
        "processor": processor.get("model name", platform.machine()),
        # Clouds call very different processors by one name.
        "processor_model": f"family {processor.get('cpu family', '?')}, model {processor.get('model', '?')}",
        "vector_instructions": next((name for name in VECTORS if name in flags), "unknown"),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "transparent_huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average": os.getloadavg()[0],
    }


def without_load(machine: Mapping[str, Any]) -> dict[str, Any]:
    """A machine but for how busy it was: what is the same in two sessions on it."""
    return {name: value for name, value in machine.items() if name != "load_average"}


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> dict[str, str]:
    """What the kernel says about the first processor; empty if it does not."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def _chosen(path: str) -> str:
    """The word in brackets, which is how the kernel shows which of several settings is in force."""
    try:
        return Path(path).read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return "unknown"
