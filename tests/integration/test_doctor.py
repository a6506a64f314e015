"""``memomalloc doctor``: each diagnosis has a program that causes it, and is made for no other."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memomalloc.doctor.arenas import parse_arenas, read_arenas
from memomalloc.doctor.diagnosis import diagnose
from memomalloc.doctor.examination import Examination, ExaminationError
from memomalloc.doctor.observation import Observation, Sample

#: name of the diagnosis: a program that has it.
PROGRAMS = {
    "page-fault-bound allocation": """
        import torch
        torch.set_num_threads(1)
        x = torch.ones(16 << 20)
        for _ in range(40):
            y = x + 1
    """,
    "memory that the allocator retains": """
        import torch
        torch.set_num_threads(1)
        model = torch.nn.Linear(64, 64).eval()
        with torch.inference_mode():
            for _ in range(2000):
                model(torch.ones(64, 64))
            blocks = [torch.ones(16384) for _ in range(4000)]  # too small for glibc to map each by itself
            last = torch.ones(8000)
            del blocks  # below the last one: glibc cannot give it back
            for _ in range(2000):
                model(torch.ones(64, 64))
    """,
    "heaps of threads": """
        import threading
        import torch
        torch.set_num_threads(1)
        model = torch.nn.Linear(64, 64).eval()
        kept, started, done = [], threading.Barrier(9), threading.Barrier(9)
        def work():
            started.wait()
            blocks = [torch.ones(16384) for _ in range(500)]
            kept.append(torch.ones(8000))
            del blocks
            done.wait()
        with torch.inference_mode():
            for _ in range(2000):
                model(torch.ones(64, 64))
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            started.wait()
            done.wait()
            for thread in threads:
                thread.join()
            for _ in range(2000):
                model(torch.ones(64, 64))
    """,
    "tensors that stay alive": """
        import torch
        torch.set_num_threads(1)
        model = torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(8)])
        losses = []
        for _ in range(120):
            losses.append(model(torch.ones(256, 256)).mean())  # keeps what a backward pass would need
    """,
    "oneDNN's cache of primitives": """
        import torch
        torch.set_num_threads(1)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3)).eval()
        with torch.inference_mode():
            for i in range(300):
                model(torch.ones(1, 3, 32 + i, 32 + i // 2))
    """,
}

#: Whatever has ever new shapes has its memory mapped ever anew, more or less of it.
MAY_HAVE_TOO = {"oneDNN's cache of primitives": ("page-fault-bound allocation",)}

HEALTHY = """
    import torch
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 16)).eval()
    with torch.inference_mode():
        for _ in range(3000):
            model(torch.ones(16, 256))
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(inspect.cleandoc(text))
    return path


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_diagnosis_is_made_for_the_program_that_causes_it(name: str, tmp_path: Path) -> None:
    found = list(diagnose(Examination(written(tmp_path, PROGRAMS[name]), [])))
    held = {diagnosis.name for diagnosis in found if diagnosis.holds}
    assert name in held, found
    assert held <= {name, *MAY_HAVE_TOO.get(name, ())}, found
    (diagnosis,) = (diagnosis for diagnosis in found if diagnosis.name == name)
    assert diagnosis.figures
    assert diagnosis.remedy


def observed(*resident_mib: int, retained_mib: int) -> Observation:
    samples = (Sample(float(i), mib << 20, 0, float(i), 0.0) for i, mib in enumerate(resident_mib))
    return Observation(tuple(samples), (), retained_mib << 20, arenas=None, allocator="glibc")


def test_a_warm_up_that_ends_at_another_moment_is_no_cure() -> None:
    plain = observed(200, 200, 200, 200, 500, 500, 500, 500, retained_mib=250)
    later = observed(200, 200, 200, 500, 500, 500, 500, 500, retained_mib=250)  # under load
    examination: Any = SimpleNamespace(plain=plain, with_variables=lambda _: later)
    assert (plain.growth_bytes, later.growth_bytes) == (300 << 20, 0)
    assert [found.name for found in diagnose(examination) if found.holds] == ["memory that the allocator retains"]


def test_live_tensors_are_named_by_who_asked_for_them(tmp_path: Path) -> None:
    found = diagnose(Examination(written(tmp_path, PROGRAMS["tensors that stay alive"]), []))
    (live,) = (diagnosis for diagnosis in found if diagnosis.name == "tensors that stay alive")
    assert "program.py" in " ".join(live.figures)


def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memomalloc", "doctor", *arguments], capture_output=True, text=True, check=False
    )


def test_a_healthy_program_is_told_so(tmp_path: Path) -> None:
    finished = run_doctor(str(written(tmp_path, HEALTHY)))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.startswith("nothing is wrong with program.py")
    assert "YES" not in finished.stdout
    assert not re.search(r"-\d", finished.stdout)
    assert finished.stderr.startswith("running ")


def test_a_program_gets_its_arguments_and_may_fail(tmp_path: Path) -> None:
    program = written(
        tmp_path,
        """
        import sys, time
        time.sleep(0.2)
        raise ValueError(f"given {sys.argv[1:]} as {__name__}")
        """,
    )
    finished = run_doctor(str(program), "--batch", "4")
    assert finished.returncode == 2
    verdict = finished.stdout.splitlines()[0]
    assert verdict.startswith("program.py failed: ValueError: given ['--batch', '4'] as __main__; ")
    assert "nothing is wrong with" not in finished.stdout


def test_figures_for_machines(tmp_path: Path) -> None:
    finished = run_doctor("--json", str(written(tmp_path, PROGRAMS["page-fault-bound allocation"])))
    found = json.loads(finished.stdout)
    assert finished.returncode == 1
    assert found["verdict"].startswith("program.py has: page-fault-bound allocation")
    assert found["error"] == ""
    held = [diagnosis["name"] for diagnosis in found["diagnoses"] if diagnosis["holds"]]
    assert held == ["page-fault-bound allocation"]
    assert all(bool(diagnosis["remedy"]) == diagnosis["holds"] for diagnosis in found["diagnoses"])
    finished = run_doctor("--json", str(written(tmp_path, "import time; time.sleep(0.1); raise SystemExit(3)")))
    assert (finished.returncode, json.loads(finished.stdout)["error"]) == (2, "it ended with status 3")
    finished = run_doctor("--json")
    found = json.loads(finished.stdout)
    assert (finished.returncode, found["verdict"]) == (0, "memomalloc works here")
    assert all(finding["fine"] for finding in found["findings"])


def test_a_program_that_is_not_there_or_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExaminationError, match="is no file"):
        Examination(tmp_path / "missing.py", [])
    with pytest.raises(ExaminationError, match="not watched to its end"):
        Examination(written(tmp_path, "import os; os._exit(3)"), [])
    finished = run_doctor(str(written(tmp_path, "import os; os.write(2, b'one\\ntwo\\n'); os.abort()")))
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[1:] == [
        f"memomalloc: error: {tmp_path}/program.py run as it is was not watched to its end: "
        "it was ended by SIGABRT: two"
    ]


def test_the_installation_is_tried_out() -> None:
    finished = run_doctor()
    assert finished.stdout.startswith("memomalloc works here\n")
    assert "requests of a small model served from its plan, with equal results" in finished.stdout, finished.stderr
    assert finished.returncode == 0


def test_a_switched_off_runtime_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOMALLOC_DISABLE", "1")
    finished = run_doctor()
    assert finished.returncode == 1
    assert "MEMOMALLOC_DISABLE is set" in finished.stdout


def test_heaps_are_read() -> None:
    arenas = read_arenas()
    if arenas is None:
        pytest.skip("not glibc")
    assert arenas.num_arenas >= 1
    assert arenas.main_free_bytes >= 0


def test_other_texts_are_no_heaps() -> None:
    assert parse_arenas("") is None
    assert parse_arenas("<malloc/>") is None
    assert parse_arenas('<malloc><heap nr="0"><total type="fast" count="1"/></heap></malloc>') is None
    text = """<malloc version="1">
      <heap nr="0"><total type="fast" count="1" size="10"/><total type="rest" count="1" size="90"/></heap>
      <heap nr="1"><total type="fast" count="0" size="0"/><total type="rest" count="1" size="7"/></heap>
      <total type="fast" count="1" size="10"/></malloc>"""
    arenas = parse_arenas(text)
    assert arenas is not None
    assert (arenas.num_arenas, arenas.main_free_bytes, arenas.other_free_bytes) == (2, 100, 7)
