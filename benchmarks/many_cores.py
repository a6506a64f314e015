"""Contention and services on whatever machine this is started on, in under eight minutes.

    make bench-many-cores                          # with the environment of this folder, if there is one
    python3 benchmarks/many_cores.py               # with any Python that has a torch which memomalloc supports

Where memomalloc is not installed for that Python it is built from this folder, in an environment that has what the
Python has; the tools for it and transformers come from ``build/wheels`` (``make cores-wheels``), or from the
package index where there is no such folder. Allocators that the machine lacks are left out, as is what would take
longer than there is time. The results are in ``build/many-cores``.
"""

from __future__ import annotations

import argparse
import os
import signal
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "wheels"
#: For builds without isolation, and for all mixes but one.
PACKAGES = ("scikit-build-core>=0.10", "nanobind>=2.4", "cmake>=3.25", "ninja", "numpy", "transformers>=5")
WORKS = "import memomalloc.runtime.extension as extension; extension.load()"
UPSTREAMS = ("glibc", "glibc-tuned", "jemalloc", "tcmalloc", "mimalloc")
WORKERS = ("1", "2", "4", "8", "16", "32", "64")
#: Of the whole, for contention at most.
CONTENTION_SHARE = 0.4
#: What a session needs to end when it is told to.
ENDING_S = 10.0


def main() -> int:
    """Measure as much as there is time for.

    Returns:
        0, or what the measuring program that failed returned.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", "-o", type=Path, default=ROOT / "build" / "many-cores", help="folder")
    parser.add_argument("--seconds", type=float, default=450.0, help="for all of it (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="the smallest size: does it run at all?")
    arguments = parser.parse_args()
    deadline_s = time.monotonic() + arguments.seconds
    arguments.output.mkdir(parents=True, exist_ok=True)
    python = prepared_python(arguments.output)
    upstreams = available_upstreams(python)
    print(f"{len(os.sched_getaffinity(0))} cores, {', '.join(upstreams)}; {python}", flush=True)
    smoke = ["--smoke"] if arguments.smoke else []

    contention = [str(ROOT / "benchmarks" / "contention.py"), "--quick", "--models", "mlp_50us", "cnn_5ms", *smoke]
    contention += ["--workers", *WORKERS, "--seconds", "1", "--upstreams", *upstreams[: 1 if smoke else None]]
    contention += ["--json", str(arguments.output / "contention.json")]
    status = run([python, *contention], deadline_s - (1 - CONTENTION_SHARE) * arguments.seconds)

    has_transformers = works(python, "import transformers")
    results = arguments.output / "service.json"
    service = [*("-m", "memomalloc", "bench", "service", "--resume", "--repetitions", "1", "--seconds", "2", *smoke)]
    rivals = ",".join(name for name in upstreams if name in ("glibc", "jemalloc", "tcmalloc"))
    results.unlink(missing_ok=True)
    # What is most worth knowing comes first.
    for mix, way in (
        ("vision", "threads"),
        ("recommend", "threads"),
        ("vision", "processes"),
        ("recommend", "processes"),
    ):
        if mix == "recommend" or (has_transformers and not smoke):
            options = ["--mix", mix, "--way", way, "--upstream", "glibc" if smoke else rivals, "-o", str(results)]
            status = run([python, *service, *options], deadline_s) or status
    if results.exists() and works(python, "import jinja2, matplotlib"):
        folder = arguments.output / "service"
        subprocess.run([python, "-m", "memomalloc", "bench", "report", str(results), "-o", str(folder)], check=True)
    return status


def run(command: Sequence[str], deadline_s: float) -> int:
    """Run a program until it ends or the time is up; what it has measured by then is kept.

    Returns:
        Its status; 0 where the time was up, or it was up before.
    """
    left_s = deadline_s - ENDING_S - time.monotonic()
    if left_s <= 0:
        print(f"no time left for {' '.join(command[1:6])} ...", flush=True)
        return 0
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # A group of its own: what it has started ends with it.
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        try:
            return process.wait(left_s)
        except subprocess.TimeoutExpired:
            print(f"time is up for {' '.join(command[1:6])} ...", flush=True)
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            return 0
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def prepared_python(folder: Path) -> str:
    """A Python in which memomalloc's runtime works: this one, or that of an environment made upon it."""
    if works(sys.executable, WORKS):
        return sys.executable
    python = folder / "venv" / "bin" / "python"
    if not works(str(python), WORKS):
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        # Not --system-site-packages: where this Python is of an environment, that means the system's below it.
        own = sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")})
        Path(own, "made_upon.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        source = ["--no-index", "--find-links", str(WHEELS)] if WHEELS.is_dir() else []
        subprocess.run([*pip, *source, *PACKAGES], check=True)
        tools = f"{python.parent}:{Path(sys.executable).parent}"
        environment = {**os.environ, "PATH": f"{tools}:{os.environ.get('PATH', '')}"}
        subprocess.run([*pip, "--no-build-isolation", "--no-deps", str(ROOT)], check=True, env=environment)
        subprocess.run([str(python), "-c", WORKS], check=True)  # or it says why not
    return str(python)


def works(python: str, program: str) -> bool:
    """Whether a Python is there and runs a program without an error."""
    try:
        return subprocess.run([python, "-c", program], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def available_upstreams(python: str) -> list[str]:
    """Those of :data:`UPSTREAMS` that are installed here."""
    program = "import sys; from memomalloc.bench.upstream import UPSTREAMS; UPSTREAMS[sys.argv[1]].environment()"
    return [
        name
        for name in UPSTREAMS
        if subprocess.run([python, "-c", program, name], capture_output=True, check=False).returncode == 0
    ]


if __name__ == "__main__":
    sys.exit(main())
