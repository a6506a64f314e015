"""Say why a program's memory grows, or why it is slow, and what helps.

The program is run as it is and watched from a thread; where that does not tell, it is run again with a remedy or
with its tensors recorded. Without a program, this machine and installation are looked at.

examples:
  memomalloc doctor
  memomalloc doctor inference.py --batch 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "say why a program's memory grows or why it is slow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("program", metavar="PROGRAM", nargs="?", type=Path, help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="the program's own")


def run(args: argparse.Namespace) -> int:
    """Examine.

    Returns:
        0 where nothing is wrong, else 1.
    """
    if args.program is None:
        return _examine_installation()
    return _examine_program(args.program, args.arguments)


def _examine_program(program: Path, arguments: list[str]) -> int:
    from memomalloc.doctor.diagnosis import MIB, diagnose
    from memomalloc.doctor.examination import Examination

    examination = Examination(program, arguments, on_run=lambda why: print(f"running {program} {why}", flush=True))
    seen = examination.plain
    if seen.error:
        print(f"the program failed, and what follows is about its run until then: {seen.error}")
    last = seen.samples[-1]
    print(
        f"it ran for {last.at_s:.1f} s over {seen.allocator}; {last.resident_bytes / MIB:,.0f} MiB were resident at "
        f"the end, {seen.growth_bytes / MIB:,.0f} MiB more than after the warm-up\n"
    )
    diagnoses = list(diagnose(examination))
    for diagnosis in diagnoses:
        print(f"{'YES' if diagnosis.holds else 'no ':3} {diagnosis.name}")
        for figure in diagnosis.figures:
            print(f"      {figure}")
        if diagnosis.holds:
            print(f"      remedy: {diagnosis.remedy}")
    if not any(diagnosis.holds for diagnosis in diagnoses):
        print("\nnothing of this is wrong with it; what it takes is what its tensors and operators need")
    return int(any(diagnosis.holds for diagnosis in diagnoses))


def _examine_installation() -> int:
    from memomalloc.doctor.installation import examine_installation

    findings = examine_installation()
    for finding in findings:
        print(f"{'ok ' if finding.fine else 'BAD'} {finding.text}")
        if not finding.fine:
            print(f"      remedy: {finding.remedy}")
    return int(not all(finding.fine for finding in findings))
