"""Runs the Python tests with several Pythons and releases of torch, each in an environment of its own.

examples:
  python3 tests/matrix/run.py                            (all pairs of PAIRS)
  python3 tests/matrix/run.py 3.11:2.9.1 3.12:2.11.0
  python3 tests/matrix/run.py 3.13:2.13.0 --keep -- tests/integration --ignore=tests/integration/test_demo.py -n 1
  python3 tests/matrix/run.py 3.13:2.13.0 --keep --again -- (the same)      (what failed, after it was mended)

What comes out goes into tests/matrix/results.json, with the date, and from there into docs/versions.md. What follows
``--`` is for pytest; without it, all tests run. Tests that fail are run again, alone, and count by that: on a busy
machine a time may be too short. What pip is to do, PIP_CONFIG_FILE and its other variables say.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs" / "versions.md"
ENVIRONMENTS = ROOT / ".venv-matrix"
BEGIN, END = "<!-- tests/matrix/run.py: begin -->", "<!-- tests/matrix/run.py: end -->"

#: CPython, and the release of torch.
PAIRS = (
    "3.11:2.9.1",
    "3.11:2.10.0",
    "3.11:2.11.0",
    "3.11:2.12.1",
    "3.11:2.13.0",
    "3.11:2.14.1",
    "3.11:2.15.0",
    "3.12:2.11.0",
    "3.13:2.13.0",
    "3.14:2.15.0",
)
ALL_TESTS = "all"
_BOTH_CORES = ("-n", "2", "--dist", "worksteal")
_FAILED_ALONE = ("-n", "0", "--last-failed", "--last-failed-no-failures=none")
_BUILD_TOOLS = ("scikit-build-core>=0.10", "nanobind>=2.4", "cmake>=3.25", "ninja")


@dataclass(frozen=True)
class Outcome:
    """What one run of the tests said.

    Attributes:
        python, torch: full versions, as they say themselves.
        machine: the kind of processor.
        date: of the run.
        tests: which tests ran, and which were left out, as pytest was told; ``all``: every one.
        passed, failed, skipped: how many; a test that ended in an error has failed.
    """

    python: str
    torch: str
    machine: str
    date: str
    tests: str
    passed: int
    failed: int
    skipped: int

    @property
    def key(self) -> tuple[list[int], list[int], str]:
        """Outcomes of one key replace each other; newer ones are further down in the table."""
        numbers = [[int(part) for part in text.partition("+")[0].split(".")[:2]] for text in (self.python, self.torch)]
        return numbers[0], numbers[1], self.tests


def main() -> int:
    """Run pairs.

    Returns:
        0 if every test of every pair passed, else 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PYTHON:TORCH", help=f"which (default: {' '.join(PAIRS)})")
    parser.add_argument("--keep", action="store_true", help="keep the environments, some GB each, for the next time")
    parser.add_argument(
        "--again", action="store_true", help="run only what failed the last time, with --keep, and correct its row"
    )
    own, rest = _split(sys.argv[1:])
    args = parser.parse_args(own)
    all_passed = True
    for pair in args.pairs or PAIRS:
        python, _, torch = pair.partition(":")
        try:
            outcome = _run_pair(python, torch, rest, again=args.again)
        except (OSError, LookupError, subprocess.CalledProcessError) as error:
            print(f"{pair}: not run: {error}", file=sys.stderr)
            all_passed = False
            continue
        finally:
            if not args.keep:
                shutil.rmtree(ENVIRONMENTS / f"{python}-{torch}", ignore_errors=True)
        keep_outcome(outcome)
        print(f"{pair}: {outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped")
        all_passed = all_passed and outcome.failed == 0
    return 0 if all_passed else 1


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _run_pair(python: str, torch: str, arguments: list[str], *, again: bool = False) -> Outcome:
    environment = ENVIRONMENTS / f"{python}-{torch}"
    own_python = environment / "bin" / "python"
    if not (environment / "installed").is_file():
        _call([_interpreter(python), "-m", "venv", str(environment)])
        _call([own_python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"])
        _call([own_python, "-m", "pip", "install", "--quiet", f"torch=={torch}", *_BUILD_TOOLS])
        _call([own_python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--editable", ".[test]"])
        (environment / "installed").touch()
    if not again:
        return _outcome(own_python, _run_twice(own_python, environment, arguments or _BOTH_CORES), arguments)
    nothing = _outcome(own_python, Counter(), arguments)
    before = next((known for known in outcomes() if known.key == nothing.key), None)
    if before is None:
        raise LookupError("these tests did not run before")
    counts = _run_tests(own_python, environment, [*arguments, *_FAILED_ALONE])
    return replace(
        nothing,
        passed=before.passed + counts["passed"],
        failed=before.failed - counts["passed"] - counts["skipped"],
        skipped=before.skipped + counts["skipped"],
    )


def _run_twice(python: Path, folder: Path, arguments: Sequence[str]) -> Counter[str]:
    """How many passed, failed and were skipped, those that failed once when they were run again without others."""
    counts = _run_tests(python, folder, arguments)
    if counts["failed"]:
        del counts["failed"]
        counts += _run_tests(python, folder, [*arguments, *_FAILED_ALONE])
    return counts


def _run_tests(python: Path, folder: Path, arguments: Sequence[str]) -> Counter[str]:
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    own = [f"--junitxml={report}", "-o", f"cache_dir={folder / 'pytest_cache'}"]
    command = [str(python), "-m", "pytest", "-q", *arguments, *own]
    print("+", shlex.join(command), flush=True)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False)
    if ended.returncode not in (0, 1):  # interrupted, or not begun
        raise subprocess.CalledProcessError(ended.returncode, shlex.join(command))
    return _counts(report)


def _counts(report: Path) -> Counter[str]:
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    num_all, failures, errors, skipped = (
        int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return Counter(passed=num_all - failed - skipped, failed=failed, skipped=skipped)


def _interpreter(version: str) -> str:
    """A Python of a version: on the path, or one of pyenv's, whose command of that name may be there and not run."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True)
    for candidate in (shutil.which(f"python{version}"), *map(str, pyenv)):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    raise FileNotFoundError(f"there is no python{version}: none that runs on the path, and none of pyenv's")


def _call(command: list[str | Path]) -> None:
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def _outcome(python: Path, counts: Counter[str], arguments: list[str]) -> Outcome:
    versions = subprocess.run(
        [
            python,
            "-c",
            "import platform, torch; print(platform.python_version(), torch.__version__, platform.machine())",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    selected = [argument for argument in arguments if argument.startswith(("tests", "--ignore="))]
    return Outcome(
        python=versions[0],
        torch=versions[1],
        machine=versions[2],
        date=datetime.date.today().isoformat(),
        tests=" ".join(selected) or ALL_TESTS,
        passed=counts["passed"],
        failed=counts["failed"],
        skipped=counts["skipped"],
    )


# --- What is kept --------------------------------------------------------------------------------------------------


def outcomes() -> list[Outcome]:
    """All that are kept, oldest versions first."""
    return [Outcome(**entry) for entry in json.loads(RESULTS.read_text(encoding="utf-8"))]


def keep_outcome(outcome: Outcome) -> None:
    """Put an outcome into the results, in the place of an earlier one of the same pair and tests, and on the page."""
    known = outcomes() if RESULTS.is_file() else []
    kept = sorted([*(other for other in known if other.key != outcome.key), outcome], key=lambda each: each.key)
    RESULTS.write_text(json.dumps([asdict(each) for each in kept], indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(kept)}{END}{after}", encoding="utf-8")


def table(kept: list[Outcome]) -> str:
    """The table of the page, in Markdown."""
    lines = ["| CPython | torch | tests | passed | failed | skipped | on | date |", "|---|---|---|---|---|---|---|---|"]
    for each in kept:
        counts = f"{each.passed:,} | {each.failed} | {each.skipped}"
        lines.append(
            f"| {each.python} | {each.torch} | {_in_words(each.tests)} | {counts} | {each.machine} | {each.date} |"
        )
    return "\n".join(lines) + "\n"


def _in_words(tests: str) -> str:
    """Folders by name, and files by how many of a folder."""
    left_out = [path.removeprefix("--ignore=") for path in tests.split() if path.startswith("--ignore=")]
    ran = [path for path in tests.split() if not path.startswith("--ignore=") and path != ALL_TESTS]
    return " but for ".join([_paths_in_words(ran) or ALL_TESTS, *([_paths_in_words(left_out)] if left_out else [])])


def _paths_in_words(paths: list[str]) -> str:
    num_files = Counter(str(Path(path).parent) for path in paths if path.endswith(".py"))
    folders = [f"`{path}`" for path in paths if not path.endswith(".py")]
    files = [f"{number} file{'s'[: number > 1]} of `{folder}`" for folder, number in num_files.items()]
    return ", ".join([*folders, *files])


if __name__ == "__main__":
    raise SystemExit(main())
