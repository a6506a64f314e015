"""Say why a program's memory grows, or why it is slow, and what helps.

The program is run as it is and watched from a thread; where that does not tell, it is run again with a remedy or
with its tensors recorded. Without a program, this machine and installation are looked at. The verdict comes first,
what it was reached by after it. Options of the doctor stand before PROGRAM.

The exit status is 0 if nothing is wrong, 1 if something was found, 2 if the program failed.

examples:
  memomalloc doctor
  memomalloc doctor inference.py --batch 4
  memomalloc doctor --json inference.py --batch 4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memomalloc.harmless_text import harmless

if TYPE_CHECKING:
    from memomalloc.doctor.diagnosis import Diagnosis
    from memomalloc.doctor.observation import Observation

HELP = "say why a program's memory grows or why it is slow"

FOUND = 1
PROGRAM_FAILED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("program", metavar="PROGRAM", nargs="?", type=Path, help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="the program's own")


def run(args: argparse.Namespace) -> int:
    """Examine.

    Returns:
        0 where nothing is wrong, 1 where something is, 2 where the program failed.
    """
    if args.program is None:
        return _examine_installation(as_json=args.json)
    return _examine_program(args.program, args.arguments, as_json=args.json)


def _examine_program(program: Path, arguments: list[str], *, as_json: bool) -> int:
    from memomalloc.doctor.diagnosis import diagnose
    from memomalloc.doctor.examination import Examination

    def tell(why: str) -> None:
        print(f"running {harmless(program)} {harmless(why)}", file=sys.stderr, flush=True)

    examination = Examination(program, arguments, on_run=tell)
    seen, diagnoses = examination.plain, list(diagnose(examination))
    verdict = _verdict(program, seen, diagnoses)
    if as_json:
        print(json.dumps(_as_json(verdict, seen, diagnoses)))
    else:
        print(f"{harmless(verdict)}\n")
        _print_details(seen, diagnoses)
    if seen.error:
        return PROGRAM_FAILED
    return FOUND if any(diagnosis.holds for diagnosis in diagnoses) else 0


def _verdict(program: Path, seen: Observation, diagnoses: Sequence[Diagnosis]) -> str:
    found = [diagnosis.name for diagnosis in diagnoses if diagnosis.holds]
    has = f"{program.name} has: {', '.join(found)}"
    if seen.error:
        until_then = has if found else "until then nothing was wrong with its memory"
        return f"{program.name} failed: {seen.error}; {until_then}"
    if found:
        return has
    return f"nothing is wrong with {program.name}: what it takes is what its tensors and operators need"


def _print_details(seen: Observation, diagnoses: Sequence[Diagnosis]) -> None:
    from memomalloc.doctor.diagnosis import MIB

    last, growth_mib = seen.samples[-1], seen.growth_bytes / MIB
    grew = f"{abs(growth_mib):,.0f} MiB {'more' if growth_mib > 0 else 'less'} than"
    print(
        f"it ran for {last.at_s:.1f} s over {seen.allocator}; {last.resident_bytes / MIB:,.0f} MiB were resident at "
        f"the end, {'as much as' if round(growth_mib) == 0 else grew} after the warm-up\n"
    )
    for diagnosis in diagnoses:
        print(f"{'YES' if diagnosis.holds else 'no ':3} {diagnosis.name}")
        for figure in diagnosis.figures:
            print(f"      {harmless(figure)}")
        if diagnosis.holds:
            print(f"      remedy: {diagnosis.remedy}")


def _as_json(verdict: str, seen: Observation, diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    last = seen.samples[-1]
    return {
        "verdict": verdict,
        "error": seen.error,
        "allocator": seen.allocator,
        "elapsed_s": last.at_s,
        "resident_bytes": last.resident_bytes,
        "growth_bytes": seen.growth_bytes,
        "live_growth_bytes": seen.live_growth_bytes,
        "retained_bytes": seen.retained_bytes,
        "fault_share": seen.fault_share,
        "diagnoses": [
            {
                "name": diagnosis.name,
                "holds": diagnosis.holds,
                "figures": diagnosis.figures,
                "remedy": diagnosis.remedy if diagnosis.holds else "",
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
