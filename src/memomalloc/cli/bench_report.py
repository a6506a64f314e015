"""Write what was measured as Markdown, pictures and one page of HTML.

examples:
  memomalloc bench report results.json
  memomalloc bench report results.json --output report --markdown docs/report.md
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from memomalloc.cli.option_types import input_file, named, output_file
from memomalloc.harmless_text import file_stem

HELP = "write results as Markdown, pictures and an HTML page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=input_file,
        help="a file of `memomalloc bench models`, `memory`, `service` or `planners --json`; - is standard input",
    )
    parser.add_argument(
        "--output", "-o", metavar="DIR", type=Path, default=Path("bench-report"), help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        type=output_file,
        help="where the Markdown goes; - is standard output (default: DIR/report.md)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the files."""
    from memomalloc.bench.executorch_report import ExecutorchResults, executorch_report
    from memomalloc.bench.locality import LocalityResults, locality_report
    from memomalloc.bench.memory_report import draw_memory, memory_report
    from memomalloc.bench.memory_results import MemoryResults
    from memomalloc.bench.planner_report import planner_report
    from memomalloc.bench.planner_results import PlannerResults
    from memomalloc.bench.plots import draw
    from memomalloc.bench.report_markdown import markdown
    from memomalloc.bench.report_page import page
    from memomalloc.bench.report_tables import model_report
    from memomalloc.bench.results import Results
    from memomalloc.bench.results_file import load_results
    from memomalloc.bench.service_report import draw_service, service_report
    from memomalloc.bench.service_results import ServiceResults
    from memomalloc.bench.time_shares import time_report
    from memomalloc.cli.output_file import require_outputs
    from memomalloc.data.atomic_file import STANDARD_OUTPUT, atomic_file

    require_outputs(args.markdown, inputs=[args.results])
    results = load_results(args.results)
    drawn: dict[str, dict[str, bytes]] = {}
    if isinstance(results, Results):
        report, drawn = model_report(results), draw(results)
    elif isinstance(results, PlannerResults):
        report = planner_report(results)
    elif isinstance(results, MemoryResults):
        report, drawn = memory_report(results), draw_memory(results)
    elif isinstance(results, ServiceResults):
        report, drawn = service_report(results), draw_service(results)
    elif isinstance(results, ExecutorchResults):
        report = executorch_report(results)
    elif isinstance(results, LocalityResults):
        report = locality_report(results)
    else:
        report = time_report(results)
    command = f"memomalloc bench report {named(args.results)}"
    args.output.mkdir(parents=True, exist_ok=True)
    text_path = args.markdown or args.output / "report.md"
    files: dict[Path, bytes] = {}
    pictures = {}
    for title, images in drawn.items():
        for suffix, image in images.items():
            path = args.output / f"{file_stem(title)}.{suffix}"
            files[path] = image
        pictures[title] = os.path.relpath(path.with_suffix(".svg"), text_path.parent)
    files[args.output / "report.html"] = page(
        report, command=command, pictures={title: images["svg"].decode() for title, images in drawn.items()}
    ).encode()
    files[text_path] = markdown(report, command=command, pictures=pictures).encode()
    for path, content in files.items():
        with atomic_file(path) as file:
            file.write(content)
        if args.markdown != STANDARD_OUTPUT:
            print(named(path))
    return 0
