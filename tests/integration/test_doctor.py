"""``memomalloc doctor``: each cause is found in the programs that have it, and in no other.

The default run has a core of them; ``make doctor`` runs the whole table of ``doctor_programs.py``, each program
``MEMOMALLOC_DOCTOR_REPETITIONS`` times, beside two processes that keep the machine busy.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doctor_programs import HEALTHY, MAY_HAVE_TOO, PROGRAMS
from memomalloc.doctor import account as parts
from memomalloc.doctor import diagnosis as named
from memomalloc.doctor.diagnosis import Diagnosis, diagnose
from memomalloc.doctor.examination import Examination, ExaminationError
from memomalloc.doctor.listener import LOOK, socket_path
from memomalloc.doctor.watching import Program, Question, watch_program

REPETITIONS = int(os.environ.get("MEMOMALLOC_DOCTOR_REPETITIONS", "0"))
#: Fast ones, for the default run; others are in the tests further below.
CORE = {"bytes_in_a_list", "weights_loaded_and_freed"}
EACH = [
    pytest.param(
        cause,
        name,
        marks=[] if name in CORE else pytest.mark.skipif(not REPETITIONS, reason="slow: make doctor"),
        id=name,
    )
    for cause, programs in PROGRAMS.items()
    for name in programs
]


def written(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(inspect.cleandoc(text))
    return path


@pytest.fixture
def busy() -> Iterator[None]:
    """Two processes that compete, where the whole table is run."""
    rivals = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 if REPETITIONS else 0)]
    yield
    for rival in rivals:
        rival.kill()
        rival.wait()


def held(found: list[Diagnosis]) -> list[str]:
    return [diagnosis.name for diagnosis in found if diagnosis.holds]


@pytest.mark.timeout(3600 if REPETITIONS else 300)
@pytest.mark.parametrize(("cause", "name"), EACH)
def test_each_cause_is_found_in_the_programs_that_have_it(cause: str, name: str, tmp_path: Path, busy: None) -> None:
    for _ in range(max(REPETITIONS, 1)):
        examination = Examination(Program(str(written(tmp_path, PROGRAMS[cause][name]))))
        found = diagnose(examination)
        assert cause in held(found), found
        assert set(held(found)) <= {cause, *MAY_HAVE_TOO.get(cause, ())}, found
        (diagnosis,) = (diagnosis for diagnosis in found if diagnosis.name == cause)
        assert diagnosis.figures
        assert diagnosis.remedies or cause == named.UNEXPLAINED
        account = examination.plain.account
        assert account is not None
        assert account.explained_share >= 0.9 or name == "private_mappings", account


@pytest.mark.timeout(3600 if REPETITIONS else 300)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[] if name == "small_model" else pytest.mark.skipif(not REPETITIONS, reason="slow: make doctor")
        )
        for name in HEALTHY
    ],
)
def test_nothing_is_found_where_nothing_is_wrong(name: str, tmp_path: Path, busy: None) -> None:
    for _ in range(max(REPETITIONS, 1)):
        page = tmp_path / "page.html"
        finished = run_doctor("--html", str(page), str(written(tmp_path, HEALTHY[name])))
        assert finished.returncode == 0, finished.stdout + finished.stderr
        shown = json.loads(re.findall(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[0])
        assert shown["resident"]["verdict"].startswith("nothing is wrong with program.py")
        assert sum(num_bytes for _, num_bytes, *_ in shown["resident"]["parts"]) > 100 << 20
        assert shown["resident"]["findings"] == []
        assert shown["tables"][0]["sizes"]
        assert finished.stdout.startswith("nothing is wrong with program.py")
        assert "YES" not in finished.stdout
        assert finished.stderr.startswith("running ")


def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memomalloc", "doctor", *arguments], capture_output=True, text=True, check=False
    )


def test_growth_that_nothing_explains_is_told_with_the_account(tmp_path: Path) -> None:
    leak = PROGRAMS["growth that nothing explains"]["native_library_that_leaks"]
    finished = run_doctor(str(written(tmp_path, leak)))
    assert finished.returncode == 1
    assert re.match(r"nothing that is known explains \d+ MiB of the growth of program.py\n", finished.stdout)
    assert "what its resident memory is for" in finished.stdout
    assert re.search(r"MiB a second, 8 GiB after \d+ (s|min)", finished.stdout)


def test_the_parts_of_the_account_add_up_and_holders_are_named(tmp_path: Path) -> None:
    seen = watch_program(
        Program(
            str(
                written(
                    tmp_path,
                    """
                    import numpy as np
                    import torch
                    class Service:
                        def __init__(self):
                            self.cache = {n: torch.ones(1 << 18) for n in range(40)}
                    service = Service()
                    model = torch.nn.Linear(2048, 2048)
                    texts = ["%07d" % n * 100 for n in range(20_000)]
                    arrays = [np.ones(1 << 17) for _ in range(16)]
                    """,
                )
            )
        )
    )
    account = seen.account
    assert account is not None
    assert abs(account.resident_bytes - seen.last.resident_bytes) <= 0.05 * seen.last.resident_bytes
    mib = {name: size / named.MIB for name, size in account.parts.items()}
    assert 40 <= mib[parts.TENSORS] <= 42
    assert 16 <= mib[parts.WEIGHTS] <= 17
    assert mib[parts.FILES] > 5
    assert account.explained_share >= 0.9
    holders = {holder.path: holder for holder in account.holders}
    assert holders["service.cache in __main__"].what == "a dict of 40"
    assert holders["texts in __main__"].num_bytes > 13 << 20
    assert holders["arrays in __main__"].num_bytes >= 16 << 20


def test_watching_changes_no_threshold_of_the_allocator(tmp_path: Path) -> None:
    # A list of all objects, made and freed in the process, would raise it for good: what is watched is a copy.
    seen = watch_program(
        Program(
            str(
                written(
                    tmp_path,
                    """
                    import time
                    things = [[n] for n in range(300_000)]  # a list of them all is larger than the threshold
                    time.sleep(3)
                    block = bytearray(1 << 20)
                    with open("/proc/self/maps") as maps:
                        heap = next(line for line in maps if "[heap]" in line).split()[0].split("-")
                    import ctypes
                    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
                    assert not int(heap[0], 16) <= address < int(heap[1], 16), "it was not mapped by itself"
                    """,
                )
            )
        )
    )
    assert len(seen.looks) >= 2
    assert seen.error == ""


def test_live_tensors_are_named_by_who_asked_for_them_and_the_remedy_was_tried(tmp_path: Path) -> None:
    program = PROGRAMS["tensors that stay alive"]["graphs_of_losses"]
    path = str(written(tmp_path, program))
    for _ in range(2):  # beside other tests one run may be too short to show what a remedy does
        (live, *_) = diagnose(Examination(Program(path)))
        assert live.name == "tensors that stay alive"
        assert "program.py" in " ".join(live.figures)
        assert "losses in __main__, a list of 120" in " ".join(live.figures)
        assert re.search(r"at its peak [\d.]+ MiB are alive while \S+ runs at \S*program.py", " ".join(live.figures))
        if live.remedies[0].startswith("torch.inference_mode()"):
            break
    assert re.match(r"torch.inference_mode\(\): growth after the warm-up \d+ MiB -> \d+ MiB", live.remedies[0])


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
    program = PROGRAMS["threads that pile up"]["one_for_each_request"]
    finished = run_doctor("--json", str(written(tmp_path, program)))
    found = json.loads(finished.stdout)
    assert finished.returncode == 1
    assert found["verdict"] == "program.py has: threads that pile up"
    assert found["error"] == ""
    assert sum(found["account_bytes"].values()) == pytest.approx(found["resident_bytes"], rel=0.05)
    assert [diagnosis["name"] for diagnosis in found["diagnoses"] if diagnosis["holds"]] == ["threads that pile up"]
    assert all(bool(diagnosis["remedy"]) == diagnosis["holds"] for diagnosis in found["diagnoses"])
    finished = run_doctor("--json", str(written(tmp_path, "import time; time.sleep(0.1); raise SystemExit(3)")))
    assert (finished.returncode, json.loads(finished.stdout)["error"]) == (2, "it ended with status 3")
    finished = run_doctor("--json")
    found = json.loads(finished.stdout)
    assert (finished.returncode, found["verdict"]) == (0, "memomalloc works here")
    assert all(finding["fine"] for finding in found["findings"])


def test_a_program_that_is_not_there_or_dies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExaminationError, match="is no file"):
        Examination(Program(str(tmp_path / "missing.py")))
    with pytest.raises(ExaminationError, match="not watched to its end"):
        Examination(Program(str(written(tmp_path, "import os; os._exit(3)"))))
    finished = run_doctor(str(written(tmp_path, "import os; os.write(2, b'one\\ntwo\\n'); os.abort()")))
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[1:] == [
        f"memomalloc: error: {tmp_path}/program.py run as it is was not watched to its end: "
        "it was ended by SIGABRT: two"
    ]


# --- Services ------------------------------------------------------------------------------------------------------

# It ends by itself: one that nobody ended, since its test failed, would take all memory of the machine.
SERVICE = """
    import pathlib, sys, time
    pathlib.Path(sys.argv[1]).touch()
    kept = []
    while len(kept) < 3000:
        kept.append(b"x" * (1 << 20)); time.sleep(0.02)
"""


def test_a_service_is_watched_for_some_seconds(tmp_path: Path) -> None:
    began_s = time.monotonic()
    finished = run_doctor("--seconds", "4", str(written(tmp_path, SERVICE)), str(tmp_path / "begun"))
    assert time.monotonic() - began_s < 60
    assert finished.returncode == 1, finished.stderr
    assert finished.stdout.startswith("program.py has: Python objects that stay alive\n")
    assert "let go of what kept in __main__ holds" in finished.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_a_service_is_told_the_verdict(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(inspect.cleandoc(SERVICE))
    doctor = subprocess.Popen(
        [sys.executable, "-m", "memomalloc", "doctor", "--json", "-m", "service", "begun"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    until_s = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    time.sleep(3)
    doctor.send_signal(number)
    stdout, _ = doctor.communicate(timeout=60)
    found: dict[str, Any] = json.loads(stdout)
    assert found["verdict"] == "service has: Python objects that stay alive"
    assert found["was_stopped"]
    assert doctor.returncode == 1


def test_a_hundred_looks_lose_nothing(tmp_path: Path) -> None:
    from memomalloc.doctor import listener

    code = f"""
        import sys, threading
        sys.path.insert(0, {str(Path(listener.__file__).parent)!r})
        import listener
        listener.listen({str(tmp_path)!r})
        kept = [b"x" * (1 << 20) for _ in range(8)]
        print("ready", flush=True)
        total = sum(1 for line in sys.stdin if line)
        print(total, len(kept), threading.active_count())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", inspect.cleandoc(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert oct(os.stat(socket_path(str(tmp_path), process.pid)).st_mode)[-3:] == "600"
    for n in range(100):
        question = Question(str(tmp_path), process.pid)
        if n % 10 == 0:
            assert question.answer()["holders"][0][:2] == ["kept in __main__", "a list of 8"]
        question.close()  # before there is an answer: nobody minds
    assert LOOK
    stdout, _ = process.communicate("one\ntwo\n", timeout=60)
    assert (process.returncode, stdout) == (0, "2 8 1\n")


# --- The installation ----------------------------------------------------------------------------------------------


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
