"""Say why a program's memory grows, or why it is slow, and what helps.

The program is run as it is and watched from outside; where that does not tell, it is run again with a remedy or
with its tensors recorded, and a remedy is named only if it helped. Without a program, this machine and installation are
looked at. The verdict comes first, then what memory is for, then what the verdict was reached by. Options of the doctor
stand before PROGRAM.

A service is watched for --seconds, or until Ctrl-C or SIGTERM: the verdict is given then, from this one run.

The exit status is 0 if nothing is wrong, 1 if something was found or nothing explains the growth, 2 if the
program failed.

examples:
  memomalloc doctor
  memomalloc doctor inference.py --batch 4
  memomalloc doctor --json inference.py --batch 4
  memomalloc doctor --html doctor.html inference.py --batch 4
  memomalloc doctor --seconds 60 -m uvicorn app:app
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from memomalloc.cli.account_table import account_lines
from memomalloc.cli.option_types import output_file, seconds
from memomalloc.cli.output_file import require_outputs, say_written
from memomalloc.data.atomic_file import STANDARD_OUTPUT
from memomalloc.errors import OptionError
from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.data.trace import Trace
    from memomalloc.doctor.diagnosis import Diagnosis
    from memomalloc.doctor.examination import Examination
    from memomalloc.doctor.observation import Observation
    from memomalloc.report.resident_memory import ResidentMemory

HELP = "say why a program's memory grows or why it is slow"

FOUND = 1
PROGRAM_FAILED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="N",
        help="stop the program after N seconds: for a service, which does not end",
    )
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="write a page: the account, the verdict, a map of the tensors"
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is a module's name")
    parser.add_argument("program", metavar="PROGRAM", nargs="?", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="the program's own")


def run(args: argparse.Namespace) -> int:
    """Examine.

    Returns:
        0 where nothing is wrong, 1 where something is, 2 where the program failed.
    """
    if args.program is None:
        if args.html is not None:
            raise OptionError("--html shows a program: name one")
        return _examine_installation(as_json=args.json)
    require_outputs(args.html, prints=args.json or args.html != STANDARD_OUTPUT)
    return _examine_program(args)


def _examine_program(args: argparse.Namespace) -> int:
    from memomalloc.doctor.diagnosis import diagnose
    from memomalloc.doctor.examination import Examination
    from memomalloc.doctor.watching import Program

    def tell(why: str) -> None:
        print(f"running {harmless(args.program)} {harmless(why)}", file=sys.stderr, flush=True)

    program = Program(args.program, tuple(args.arguments), is_module=args.is_module)
    with _interrupted_by_termination():
        examination = Examination(program, seconds=args.seconds, on_run=tell)
        diagnoses = diagnose(examination)
        trace = None if args.html is None or examination.plain.torch_at_s is None else examination.recorded()
    seen = examination.plain
    verdict = _verdict(examination, diagnoses)
    if args.html is not None:
        _write_page(args, trace, _resident_memory(verdict, seen, diagnoses))
    if args.json:
        print(json.dumps(_as_json(verdict, seen, diagnoses)))
    elif args.html != STANDARD_OUTPUT:
        print(f"{harmless(verdict)}\n")
        _print_details(seen, diagnoses)
        say_written(args.html)
    if seen.error:
        return PROGRAM_FAILED
    return FOUND if any(diagnosis.holds for diagnosis in diagnoses) else 0


@contextlib.contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Whoever ends a service by SIGTERM is told the verdict, as by Ctrl-C."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _verdict(examination: Examination, diagnoses: Sequence[Diagnosis]) -> str:
    from memomalloc.doctor.diagnosis import UNEXPLAINED, mib

    seen, name = examination.plain, examination.program.name.rpartition("/")[2]
    found = [diagnosis.name for diagnosis in diagnoses if diagnosis.holds and diagnosis.name != UNEXPLAINED]
    unexplained = sum(d.num_bytes for d in diagnoses if d.holds and d.name == UNEXPLAINED)
    has = f"{name} has: {', '.join(found)}"
    if unexplained:
        nothing = f"nothing that is known explains {mib(unexplained)} of the growth"
        has = f"{has}; {nothing}" if found else f"{nothing} of {name}"
    if seen.error:
        until_then = has if found or unexplained else "until then nothing was wrong with its memory"
        return f"{name} failed: {seen.error}; {until_then}"
    if found or unexplained:
        return has
    return f"nothing is wrong with {name}: what it takes is what its tensors and operators need"


def _print_details(seen: Observation, diagnoses: Sequence[Diagnosis]) -> None:
    from memomalloc.doctor.diagnosis import MIB

    last, growth_mib = seen.last, seen.growth_bytes / MIB
    allocator = f" over {seen.account.allocator}" if seen.account and seen.account.allocator else ""
    grew = f"{abs(growth_mib):,.0f} MiB {'more' if growth_mib > 0 else 'less'} than"
    print(
        f"it ran for {last.at_s:.1f} s{allocator}; {last.resident_bytes / MIB:,.0f} MiB were resident at "
        f"the end, {'as much as' if round(growth_mib) == 0 else grew} after the warm-up"
    )
    if seen.was_stopped:
        print("it was stopped while it ran, so it was run once: remedies that need another run were not tried")
    print()
    if seen.account is not None:
        print("\n".join(account_lines(seen.account, seen.warm_look.account if seen.warm_look else None)), end="\n\n")
    for diagnosis in diagnoses:
        if not diagnosis.holds:
            print(f"no  {diagnosis.name}{'; '.join(['', *map(harmless, diagnosis.figures)])}")
            continue
        print(f"YES {diagnosis.name}")
        for figure in diagnosis.figures:
            print(f"      {harmless(figure)}")
        for remedy in diagnosis.remedies:
            print(f"      remedy: {harmless(remedy)}")


def _write_page(args: argparse.Namespace, trace: Trace | None, resident: ResidentMemory) -> None:
    """Write the page. Without a trace (nothing to record, or the program was run once) its map is empty."""
    from memomalloc.cli.subjects import placements_of
    from memomalloc.data.trace import Trace
    from memomalloc.report.html_page import write_page

    recorded = Trace.from_arrays([], [], []) if trace is None else trace
    placements = placements_of(recorded, what=args.program, title="its tensors" if trace else "no recording")
    write_page(placements, args.html, title=args.program, resident=resident)


def _resident_memory(verdict: str, seen: Observation, diagnoses: Sequence[Diagnosis]) -> ResidentMemory:
    from memomalloc.doctor.account import SOURCES
    from memomalloc.doctor.diagnosis import growing
    from memomalloc.report.resident_memory import Finding, ResidentMemory, ResidentPart

    account, growth = seen.account, seen.account_growth
    parts = [
        ResidentPart(name, num_bytes, growth.get(name, 0) if growth else None, SOURCES[name])
        for name, num_bytes in (account.parts if account else {}).items()
        if num_bytes or growth.get(name)
    ]
    found = [Finding(one.name, one.figures, one.remedies) for one in diagnoses if one.holds]
    return ResidentMemory(verdict, f"After the warm-up it {growing(seen)}.", tuple(parts), tuple(found))


def _as_json(verdict: str, seen: Observation, diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    account = seen.account
    return {
        "verdict": verdict,
        "error": seen.error,
        "allocator": account.allocator if account else "",
        "elapsed_s": seen.last.at_s,
        "was_stopped": seen.was_stopped,
        "resident_bytes": seen.last.resident_bytes,
        "growth_bytes": seen.growth_bytes,
        "growth_bytes_per_s": seen.growth_per_s,
        "account_bytes": dict(account.parts) if account else {},
        "account_growth_bytes": seen.account_growth,
        "retained_bytes": account.given_back_bytes if account else 0,
        "repeated_page_faults": seen.repeated_faults,
        "fault_share": seen.fault_share,
        "num_threads": seen.last.num_threads,
        "children": [
            {
                "pid": child.pid,
                "command": child.command,
                "private_bytes": child.private_bytes,
                "shared_bytes": child.shared_bytes,
            }
            for child in seen.children
        ],
        "diagnoses": [
            {
                "name": diagnosis.name,
                "holds": diagnosis.holds,
                "figures": diagnosis.figures,
                "remedies": diagnosis.remedies,
                "remedy": "; or ".join(diagnosis.remedies),
            }
            for diagnosis in diagnoses
        ],
    }


def _examine_installation(*, as_json: bool) -> int:
    from memomalloc.doctor.installation import examine_installation

    findings = examine_installation()
    bad = [finding for finding in findings if not finding.fine]
    verdict = f"memomalloc does not work as it should here: {bad[0].text}" if bad else "memomalloc works here"
    if as_json:
        listed = [
            {"text": finding.text, "fine": finding.fine, "remedy": "" if finding.fine else finding.remedy}
            for finding in findings
        ]
        print(json.dumps({"verdict": verdict, "findings": listed}))
        return FOUND if bad else 0
    print(f"{verdict}\n")
    for finding in findings:
        print(f"{'ok ' if finding.fine else 'BAD'} {finding.text}")
        if not finding.fine:
            print(f"      remedy: {finding.remedy}")
    return FOUND if bad else 0
