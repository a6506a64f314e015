"""The figures of a row as people read them; used by every table."""

from __future__ import annotations

from collections.abc import Sequence

from memomalloc.bench.row import Row

MIB = 1 << 20
UNKNOWN = "-"


def milliseconds(value: float | None) -> str:
    """A latency with three digits that matter."""
    if value is None:
        return UNKNOWN
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def mebibytes(value: int | None) -> str:
    """An amount of memory in MiB."""
    return UNKNOWN if value is None else f"{value / MIB:,.1f}"


def count(value: float | None) -> str:
    """A counter per call: whole from 10 on, so that 0.2 faults do not look like none."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.1:
        return "<0.1"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def ratio(value: float | None) -> str:
    """Upstream's latency over the planned one."""
    return UNKNOWN if value is None else f"{value:.2f}"


def share(value: float | None) -> str:
    """A part of 1, rounded down: 99.96 % is not all."""
    return UNKNOWN if value is None else "100 %" if value == 1 else f"{int(value * 1000) / 10:.1f} %"


def served(row: Row) -> str:
    """Requests of one call, and the share of them that the plan served."""
    if row.requests_per_call is None or row.requests_served_share is None:
        return UNKNOWN
    if row.requests_served_share == 1:
        return f"{row.requests_per_call} of {row.requests_per_call}"
    return f"{share(row.requests_served_share)} of {row.requests_per_call}"


def situation(row: Row) -> str:
    """What else is unusual about a row's case, to follow its batch; mostly empty."""
    parts = []
    if row.workers > 1:
        parts.append(f"{row.workers} workers")
    if row.intra_op_threads > 1:
        parts.append(f"{row.intra_op_threads} intra-op threads")
    if row.mode != "eager":
        parts.append(row.mode)
    return "".join(f", {part}" for part in parts)


def conclusion(row: Row) -> str:
    """What a row says about memomalloc, in one sentence; the bad news included."""
    name = f"{row.model} at batch {row.batch}{situation(row)}"
    if row.ratio_median is None:
        return f"{name} was not measured ({row.status.replace('_', ' ')}): {row.error or 'no reason is known'}"
    if row.status == "different_results":
        return f"FAILURE: {name}: {row.error}."
    if row.status == "deviated":
        return f"FAILURE: {name} was not served from its plan alone: {row.error}."
    figures = f"{ratio(row.ratio_median)} (95 % interval {ratio(row.ratio_low)} to {ratio(row.ratio_high)})"
    faults = count(row.upstream_minor_faults)
    if row.verdict == "gain":
        return f"{name}: a gain, ratio {figures}; page faults per inference {faults} before, " + (
            f"{count(row.planned_minor_faults)} after."
        )
    if row.verdict == "loss":
        return f"{name}: SLOWER with its plan, ratio {figures}."
    if row.verdict == "too_few_pairs":
        return f"{name}: {row.num_pairs} pairs are too few to say anything."
    return f"{name}: no gain in speed that could be told from noise, ratio {figures}; {_why_no_gain(row)}."


def _why_no_gain(row: Row) -> str:
    kernel_ms, latency_ms = row.upstream_kernel_ms, row.upstream_p50_ms
    if kernel_ms is None or not latency_ms:
        return "no cause was measured"
    return (
        f"{row.upstream} spent {100 * kernel_ms / latency_ms:.1f} % of the time in the kernel, with "
        f"{count(row.upstream_minor_faults)} page faults per inference, and that is what a plan could save"
    )


def what_gains(rows: Sequence[Row]) -> str:
    """Where the first row shows no gain: in one sentence, what does on this machine. Else empty."""
    if not rows or rows[0].verdict not in ("none", "loss"):
        return ""
    gains = sorted((row for row in rows if row.verdict == "gain"), key=lambda row: -(row.ratio_median or 0.0))
    if gains:
        named = ", ".join(f"{row.model} at batch {row.batch} ({ratio(row.ratio_median)})" for row in gains)
        found = f"Over {rows[0].upstream} on this machine these gain: {named}"
    else:
        found = f"Over {rows[0].upstream} no row gains speed on this machine"
    return (
        f"{found}; a plan saves page faults and time in the kernel, so larger batches and inputs gain more "
        "(memomalloc bench models --batch 32 -o demo.json), and so does an allocator that gives memory back "
        "(LD_PRELOAD=libjemalloc.so.2 memomalloc demo)."
    )
