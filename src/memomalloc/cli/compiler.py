"""Plan the buffers that a compiler has dumped, for compilers that cannot be given a planner.

xla: a file of XLA (JAX, TensorFlow) that ends in after_optimizations.hlo.pb, dumped with
XLA_FLAGS="--xla_dump_to=DIR --xla_dump_hlo_as_proto". iree: what iree-compile prints with
--mlir-print-ir-before=iree-stream-layout-slices. tflite: a model for TensorFlow Lite Micro; OUT.tflite is the
model with the plan in it, which the device takes.

OUT.csv gets the buffers and their offsets, as `memomalloc plan` writes them.

examples:
  memomalloc compiler xla dump/module_0000.jit_f.cpu_after_optimizations.hlo.pb
  memomalloc compiler iree dump.mlir --problem "@main %4" -o planned.csv
  memomalloc compiler tflite model.tflite -o planned.tflite
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from memomalloc.cli.option_types import input_file, output_file, time_limit, whole
from memomalloc.cli.plan import summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memomalloc.data.plan import Plan
    from memomalloc.integrations.dumped_problem import DumpedProblem
    from memomalloc.integrations.tflite import TfliteModel

HELP = "plan the buffers that a compiler has dumped"

#: By compiler, the alignment in bytes that it gives its buffers where the user says nothing.
COMPILERS = {"xla": 64, "iree": 64, "tflite": 16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("compiler", choices=tuple(COMPILERS), help="whose file it is")
    parser.add_argument("file", type=input_file, metavar="FILE", help="what it dumped")
    parser.add_argument("--problem", metavar="NAME", help="plan this one only, where there are several")
    parser.add_argument("--planner", default="auto", metavar="NAME", help="see `memomalloc planners` (default: auto)")
    parser.add_argument(
        "--alignment", type=_alignment, metavar="N", help="of each buffer in bytes (default: the compiler's own)"
    )
    parser.add_argument(
        "--capacity", type=whole(), metavar="BYTES", help="any plan within it will do; exit 3 if none is"
    )
    parser.add_argument(
        "--time-limit", type=time_limit, default=1.0, metavar="S", help="seconds that a search may take (default: 1)"
    )
    parser.add_argument("--seed", type=whole(), default=0, metavar="N", help="of the random choices (default: 0)")
    parser.add_argument("--replace", action="store_true", help="tflite: replace the plan that the model has")
    parser.add_argument(
        "-o", "--output", type=output_file, metavar="OUT", help="write the plan: OUT.csv, OUT.json, OUT.tflite"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of lines for a person")


def run(args: argparse.Namespace) -> int:
    """Read, plan, print, write.

    Returns:
        0; whatever goes wrong is raised.
    """
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.errors import FileFormatError
    from memomalloc.planners import plan

    suffixes = (".csv", ".json", ".tflite") if args.compiler == "tflite" else (".csv", ".json")
    if args.output is not None and args.output.suffix.lower() not in suffixes:
        raise FileFormatError(args.output, f"a plan is written as one of {', '.join(suffixes)}: end the name so")
    require_outputs(args.output, inputs=[args.file])
    problems, model = _read(args)
    if args.problem is not None:
        names = [dumped.name for dumped in problems]
        if args.problem not in names:
            raise FileFormatError(args.file, f"no problem {args.problem!r:.60}; there are {', '.join(names)}")
        problems = [dumped for dumped in problems if dumped.name == args.problem]
    if args.output is not None and len(problems) > 1:
        names = [dumped.name for dumped in problems]
        raise FileFormatError(args.file, f"{len(names)} problems, one is written: add --problem, of {', '.join(names)}")
    plans = [
        plan(
            dumped.problem,
            planner=args.planner,
            time_limit_s=args.time_limit,
            seed=args.seed,
            capacity_bytes=args.capacity,
        )
        for dumped in problems
    ]
    if args.output is not None:
        _write(args.output, problems[0], plans[0], model)
    _print(problems, plans, as_json=args.json)
    return 0


def _read(args: argparse.Namespace) -> tuple[Sequence[DumpedProblem], TfliteModel | None]:
    alignment_bytes = args.alignment or COMPILERS[args.compiler]
    if args.compiler == "xla":
        from memomalloc.integrations.xla import read_xla_dump

        return read_xla_dump(args.file, alignment_bytes=alignment_bytes), None
    if args.compiler == "iree":
        from memomalloc.integrations.iree import read_iree_dump

        return read_iree_dump(args.file, alignment_bytes=alignment_bytes), None
    from memomalloc.errors import FileFormatError
    from memomalloc.integrations.tflite import METADATA_NAME, TfliteModel

    model = TfliteModel(args.file, alignment_bytes=alignment_bytes)
    if model.has_plan and args.output is not None and args.output.suffix.lower() == ".tflite" and not args.replace:
        raise FileFormatError(
            args.file, f"it has a plan already ({METADATA_NAME}), which another tool may rely on: add --replace"
        )
    return [model.dumped], model


def _write(output: Path, dumped: DumpedProblem, made: Plan, model: TfliteModel | None) -> None:
    from memomalloc.data.minimalloc_csv import write_minimalloc_csv

    if output.suffix.lower() == ".tflite":
        assert model is not None
        model.write(made, output)
    elif output.suffix.lower() == ".csv":
        write_minimalloc_csv(dumped.problem, output, made.offsets)
    else:
        made.save(output)


def _print(problems: Sequence[DumpedProblem], plans: Sequence[Plan], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"problem": dumped.name, "own_bytes": dumped.own_bytes} | summary(made)
            for dumped, made in zip(problems, plans, strict=True)
        ]
        print(json.dumps(rows))
        return
    for dumped, made in zip(problems, plans, strict=True):
        own = "" if dumped.own_bytes is None else f"; the compiler's own plan needs {dumped.own_bytes}"
        bound = "the lower bound"
        if made.arena_bytes != made.lower_bound_bytes:
            bound = f"{made.gap:.3%} above the lower bound of {made.lower_bound_bytes}"
        print(f"{dumped.name}: {made.num_buffers} buffers in {made.arena_bytes} bytes, {bound}{own}")


def _alignment(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no alignment in bytes: 1 takes any offset")
    return value
