"""The allocators underneath: each needs a process that was started with its library or its variables."""

from __future__ import annotations

import ctypes.util
from collections.abc import Mapping
from dataclasses import dataclass, field

from memomalloc.errors import MissingDependencyError

_LARGE = str(1 << 34)


@dataclass(frozen=True)
class Upstream:
    """An allocator, or a way of setting one.

    Attributes:
        name: as rows call it.
        native_name: what the runtime calls the allocator that it finds.
        library: what to preload, as the linker names it; empty: nothing.
        package: of Debian, that has the library.
        variables: environment of a process that uses it.
    """

    name: str
    native_name: str
    library: str = ""
    package: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """All variables to start a process with.

        Raises:
            MissingDependencyError: its library is not installed; the message has the command that installs it.
        """
        if not self.library:
            return dict(self.variables)
        found = ctypes.util.find_library(self.library)
        if found is None:
            raise MissingDependencyError(
                f"to measure {self.name}, lib{self.library} must be installed. Run: apt-get install {self.package}"
            )
        return {"LD_PRELOAD": found, **self.variables}


#: In the order in which reports list them.
UPSTREAMS = {
    upstream.name: upstream
    for upstream in (
        Upstream("glibc", "glibc"),
        Upstream(
            "glibc-tuned",
            "glibc",
            # The largest threshold that glibc accepts, no mapping of its own for what is larger, and nothing is given
            # back: as few page faults as it can have, for as much memory.
            variables={
                "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
                "MALLOC_MMAP_MAX_": "0",
                "MALLOC_TRIM_THRESHOLD_": _LARGE,
            },
        ),
        Upstream("glibc-huge-pages", "glibc", variables={"THP_MEM_ALLOC_ENABLE": "1"}),
        Upstream("jemalloc", "jemalloc", "jemalloc", "libjemalloc2"),
        Upstream(
            "jemalloc-tuned",
            "jemalloc",
            "jemalloc",
            "libjemalloc2",
            # As PyTorch's performance tuning guide has it: large blocks from an arena of their own, and what is free is
            # kept for as good as ever.
            {
                "MALLOC_CONF": "oversize_threshold:1,background_thread:true,metadata_thp:auto,"
                "dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000"
            },
        ),
        Upstream("tcmalloc", "tcmalloc", "tcmalloc_minimal", "libtcmalloc-minimal4"),
        Upstream("mimalloc", "mimalloc", "mimalloc", "libmimalloc2.0"),
    )
}
