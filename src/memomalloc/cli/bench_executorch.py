"""Compare the bytes that ExecuTorch programs need with ExecuTorch's memory planning and with memomalloc's.

Every model is exported twice and run twice by ExecuTorch's own runtime; the outputs are compared bit for bit. Needs
executorch (`make bench-executorch` has an environment for it).

examples:
  memomalloc bench executorch
  memomalloc bench executorch --model mobilenet_v2,bert_small --json results.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "bytes of ExecuTorch programs, planned by memomalloc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", metavar="NAMES", help="separated by commas (default: all)")
    parser.add_argument("--no-run", action="store_true", help="do not run the programs: only compare their bytes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write.

    Returns:
        0, or 1 if two programs computed different outputs.
    """
    from memomalloc.bench.executorch import measure
    from memomalloc.bench.executorch_report import ExecutorchResults
    from memomalloc.bench.suite import UnknownModelError, models_of
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.extras import require

    require("executorch.exir", extra="executorch", feature="memomalloc bench executorch")
    require_outputs(args.json)
    models = models_of("demo") | models_of("transformers") | models_of("compilers")
    names = list(models) if args.model is None else args.model.split(",")
    for name in names:
        if name not in models:
            raise UnknownModelError(f"no model {name!r}; there are {', '.join(models)}")
    results = ExecutorchResults.here()
    for name in names:
        row = measure(models[name], run=not args.no_run)
        results.rows.append(row)
        equal = {True: "equal", False: "DIFFERENT", None: "not run"}[row.same_bits]
        print(
            f"{row.model}: {row.own_bytes} -> {row.planned_bytes} bytes ({100 * (row.ratio - 1):+.1f} %), "
            f"lower bound {row.lower_bound_bytes}; {row.planning_ms:.1f} ms; outputs {equal}",
            flush=True,
        )
        # Interrupted or not: what was measured is kept.
        if args.json is not None:
            results.save(args.json)
    return 1 if any(row.same_bits is False for row in results.rows) else 0
