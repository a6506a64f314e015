"""An account of resident memory as lines of text. No command of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memomalloc.doctor.account import Account

_MIB = 1 << 20


def account_lines(account: Account, earlier: Account | None) -> Iterator[str]:
    """Each part of an account that is worth telling, with where its figure comes from, and their sum.

    Args:
        account: what is told.
        earlier: growth is told since this one; None: it is not known.
    """
    from memomalloc.doctor.account import SOURCES

    growth = {} if earlier is None else account.growth_since(earlier)

    def grew(num_bytes: int) -> str:
        return "" if earlier is None else f"{num_bytes / _MIB:+,.0f}"

    yield f"{'what its resident memory is for':36} {'MiB':>8} {'grew by':>8}"
    for name, num_bytes in account.parts.items():
        if max(num_bytes, abs(growth.get(name, 0))) >= _MIB // 2:
            yield f"  {name:34} {num_bytes / _MIB:8,.0f} {grew(growth.get(name, 0)):>8}  {SOURCES[name]}"
    yield f"  {'all':34} {account.resident_bytes / _MIB:8,.0f} {grew(sum(growth.values())):>8}"
