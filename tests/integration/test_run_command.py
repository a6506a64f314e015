"""``memomalloc run`` and ``import memomalloc.auto``: a program behaves as without, and is planned."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TIMEOUT_S = 120


def _run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _write(folder: Path, text: str, name: str = "program.py") -> str:
    (folder / name).write_text(text)
    return name


MODEL = """
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)).eval()
images = [torch.randn(1, 3, 32, 32) for _ in range(12)]
"""

PLAIN = (
    MODEL
    + """
with torch.inference_mode():
    for image in images:
        print(model(image).double().sum().item())
"""
)

#: Each prints the same with and without, and fails if something breaks.
PROGRAMS = {
    "arguments_and_paths": """
import sys
print(sys.argv, __name__, __file__, sys.path[0], __doc__, __spec__, sys.modules["__main__"].__dict__ is globals())
""",
    "saved_and_copied": MODEL
    + """
import copy, io
with torch.inference_mode():
    for image in images:
        model(image)
    other = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for image in images:
        assert torch.equal(other(image), model(image)) and torch.equal(loaded(image), model(image))
print(sorted(model.state_dict()), "done")
""",
    "workers_and_threads": MODEL
    + """
import threading
class Data(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return model(images[i][None, 0]).detach()[0]
def main():
    with torch.inference_mode():
        for image in images:
            model(image)
    loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2)
    total = [batch.double().sum().item() for batch in loader]
    results = [None] * 4
    def work(i):
        with torch.inference_mode():
            results[i] = [model(image).double().sum().item() for image in images]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(result == results[0] for result in results)
    print(total, results[0])
if __name__ == "__main__":
    main()
""",
    "environment_before_torch_and_training": """
import os
os.environ["OMP_NUM_THREADS"] = "3"
"""
    + MODEL
    + """
print(torch.get_num_threads())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for image in images:
    optimizer.zero_grad()
    loss = model(image).square().mean()
    loss.backward()
    optimizer.step()
    print(loss.item())
import pickle
class Net(torch.nn.Module):
    def forward(self, x): return x + 1
net = Net()
for _ in range(8):
    net(torch.ones(3))
print(type(pickle.loads(pickle.dumps(net))) is Net)
""",
    "script_modules_and_hooks": PLAIN
    + """
import warnings
warnings.simplefilter("ignore")
script = torch.jit.trace(model, images[0])
model.register_forward_hook(lambda module, inputs, output: output * 2)
with torch.inference_mode():
    for image in images:
        assert torch.equal(script(image) * 2, model(image))
        print(script(image).double().sum().item())
""",
    "exit_with_status": "import sys\nprint('before')\nsys.exit(7)\n",
    "exit_with_message": "import sys\nsys.exit('what went wrong')\n",
    "exception": "def f():\n    raise OSError('broken')\n\nf()\n",
    "syntax_error": "print(1\n",
    "exit_handlers": "import atexit, threading, time\natexit.register(print, 'at exit')\n"
    "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\nprint('main')\n",
    "interrupted": "import atexit, os, signal\natexit.register(print, 'at exit')\n"
    "os.kill(os.getpid(), signal.SIGINT)\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_it_does_without(name: str, tmp_path: Path) -> None:
    program = _write(tmp_path, PROGRAMS[name])
    with ThreadPoolExecutor() as both:
        run = functools.partial(_run, tmp_path)
        expected, actual = both.map(
            lambda before: run(*before, program, "--stats", "argument"), [(), ("-m", "memomalloc", "run")]
        )
    assert actual.stdout == expected.stdout
    assert actual.stderr == expected.stderr
    assert actual.returncode == expected.returncode


def test_the_programs_show_what_they_should(tmp_path: Path) -> None:
    """Guards the test above: a program that fails early is equal to itself, too."""
    assert _run(tmp_path, _write(tmp_path, PROGRAMS["interrupted"])).returncode == -signal.SIGINT
    for name in ("saved_and_copied", "workers_and_threads", "environment_before_torch_and_training"):
        child = _run(tmp_path, _write(tmp_path, PROGRAMS[name]))
        assert (child.returncode, child.stderr) == (0, "")
        assert child.stdout


def test_a_program_is_planned_and_says_so(tmp_path: Path) -> None:
    child = _run(tmp_path, "-m", "memomalloc", "run", "--stats", "--report", "map.html", _write(tmp_path, PLAIN))
    assert child.returncode == 0
    replayed = re.search(r"Calls replayed from a plan\s*\|\s*(\d+)", child.stderr)
    assert replayed is not None
    assert int(replayed[1]) >= 8  # of 12: one warms up, one is recorded, and that may be put off a little
    assert "100.0000%" in child.stderr
    assert "Sequential" in (tmp_path / "map.html").read_text()


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        pytest.param("model.forward(images[0])", "", id="modules_inside"),
        pytest.param("model(images[0])", "no module was called from outside any other more than once", id="once"),
        pytest.param(
            "model = model.to('meta')\nfor _ in range(4):\n    model(torch.zeros(1, 3, 8, 8, device='meta'))",
            "memomalloc: Sequential: 3 calls, and none was planned: tensors that are not on the CPU are not planned",
            id="elsewhere",
        ),
    ],
)
def test_what_is_not_planned_is_said(calls: str, said: str, tmp_path: Path) -> None:
    child = _run(tmp_path, "-m", "memomalloc", "run", "--stats", _write(tmp_path, f"{MODEL}\n{calls}\n"))
    assert child.returncode == 0, child.stderr
    assert said in child.stderr
    assert re.search(r"Share served\s*\|\s*- ", child.stderr)


def test_a_module_can_be_run(tmp_path: Path) -> None:
    _write(tmp_path, "import sys\nprint(sys.argv[1:], __name__)\n" + PLAIN, "some_module.py")
    child = _run(tmp_path, "-m", "memomalloc", "run", "-m", "some_module", "a", "-b")
    assert child.stdout.startswith("['a', '-b'] __main__\n")
    assert (child.returncode, child.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("missing.py",), "there is no such file", id="no_program"),
        pytest.param(("--report", "no/folder/map.html", "program.py"), "there is no folder", id="no_folder"),
    ],
)
def test_what_cannot_be_run_is_refused_first(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    _write(tmp_path, "print('ran')")
    child = _run(tmp_path, "-m", "memomalloc", "run", *arguments)
    assert (child.returncode, child.stdout) == (2, "")
    assert message in child.stderr


def test_a_program_without_torch_runs_without_it(tmp_path: Path) -> None:
    program = _write(tmp_path, "import sys; print('torch' in sys.modules)")
    child = _run(tmp_path, "-m", "memomalloc", "run", "--stats", program)
    assert child.stdout == "False\n"
    assert "did not use torch" in child.stderr


def test_switched_off_nothing_is_planned(tmp_path: Path) -> None:
    program = _write(tmp_path, PLAIN)
    child = _run(tmp_path, "-m", "memomalloc", "run", "--stats", program, MEMOMALLOC_DISABLE="1")
    assert child.stdout == _run(tmp_path, program).stdout
    assert re.search(r"Calls replayed from a plan\s*\|\s*0 ", child.stderr)


def test_ctrl_c_ends_a_program_that_is_replayed(tmp_path: Path) -> None:
    program = _write(tmp_path, MODEL + "print('ready', flush=True)\nwhile True:\n    model(images[0])\n")
    with subprocess.Popen(
        [sys.executable, "-m", "memomalloc", "run", program],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode == -signal.SIGINT
    assert stderr.endswith("KeyboardInterrupt\n")
    assert "cli/run.py" not in stderr


@pytest.mark.slow
def test_compiled_modules_work(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
compiled = torch.compile(model, backend="eager")
in_place = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.ReLU())
reference = torch.nn.Sequential(*in_place)
in_place.compile(backend="eager")
with torch.inference_mode():
    for image in images:
        print(torch.equal(compiled(image), model(image)), torch.equal(in_place(image), reference(image)))
"""
    )
    program = _write(tmp_path, text)
    expected = _run(tmp_path, program)
    actual = _run(tmp_path, "-m", "memomalloc", "run", program)
    assert (actual.returncode, actual.stdout, actual.stderr) == (0, expected.stdout, expected.stderr)
    assert expected.stdout == "True True\n" * 12


@pytest.mark.slow
def test_code_that_inductor_generates_is_planned(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
compiled = torch.compile(model)
with torch.inference_mode():
    for image in images:
        print(compiled(image).double().sum().item())
"""
    )
    program = _write(tmp_path, text)
    expected = _run(tmp_path, program)
    actual = _run(tmp_path, "-m", "memomalloc", "run", "--stats", program)
    assert (actual.returncode, actual.stdout) == (0, expected.stdout)
    assert len(expected.stdout.splitlines()) == 12
    replayed = re.search(r"Calls replayed from a plan\s*\|\s*(\d+)", actual.stderr)
    assert replayed is not None, actual.stderr
    assert int(replayed[1]) > 0
    assert "100.0000%" in actual.stderr


def test_what_was_learned_is_kept_for_the_next_start(tmp_path: Path) -> None:
    program = _write(tmp_path, PLAIN)
    served = []
    for _ in range(2):
        ran = _run(tmp_path, "-m", "memomalloc", "run", "--plans", "kept/plans", "--stats", program)
        assert ran.returncode == 0, ran.stderr
        served.append(int(re.findall(r"Calls replayed from a plan +\| +([0-9]+)", ran.stderr)[0]))
        outputs = ran.stdout
    assert served[1] == 12 > served[0] > 0
    assert outputs == _run(tmp_path, program).stdout
    kept = list((tmp_path / "kept" / "plans").iterdir())
    assert [path.suffix for path in kept] == [".plans"]


def test_plans_that_are_damaged_are_learned_anew_and_replaced(tmp_path: Path) -> None:
    program = _write(tmp_path, PLAIN)
    command = ("-m", "memomalloc", "run", "--plans", "plans", program)
    assert _run(tmp_path, *command).returncode == 0
    (kept,) = (tmp_path / "plans").iterdir()
    kept.write_bytes(b"no archive")
    assert _run(tmp_path, *command).returncode == 0
    assert kept.read_bytes().startswith(b"PK")


def test_another_model_has_another_file(tmp_path: Path) -> None:
    program = _write(tmp_path, PLAIN)
    changed = _write(tmp_path, PLAIN.replace("Conv2d(8, 8, 3)", "Conv2d(8, 4, 3)"), "changed.py")
    for name in (program, changed, program):
        assert _run(tmp_path, "-m", "memomalloc", "run", "--plans", "plans", name).returncode == 0
    assert len(list((tmp_path / "plans").iterdir())) == 2


def test_a_folder_for_plans_that_cannot_be_made_is_refused_before_the_program_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    program = _write(tmp_path, "print('ran')")
    ran = _run(tmp_path, "-m", "memomalloc", "run", "--plans", "file/plans", program)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("memomalloc: error:")
