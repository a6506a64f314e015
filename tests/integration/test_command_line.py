"""The command line as a shell uses it: pipes, links, devices, odd names and encodings, signals."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import memomalloc
from memomalloc.bench.results_file import load_results
from memomalloc.cli import UNEXPECTED
from memomalloc.data.origin import Origin, SourceLine
from memomalloc.data.problem import Problem
from memomalloc.data.trace import Trace
from sample_traces import small_trace

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

CSV = "id,lower,upper,size\n0,0,5,100\n1,2,7,50\n"
TIMEOUT_S = 200


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with some files."""
    monkeypatch.chdir(tmp_path)
    small_trace().save("t.jsonl")
    small_trace(2).save("u.jsonl.gz")
    memomalloc.plan(small_trace()).save("p.json")
    memomalloc.plan(small_trace(2)).save("q.json.gz")
    Path("b.csv").write_text(CSV)
    Path("b.txt").write_text(CSV)
    return tmp_path


def shell(line: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which ``memomalloc`` is this one."""
    command = f'memomalloc() {{ {shlex.quote(sys.executable)} -m memomalloc "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, **(env or {})}, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    stdout, stderr = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert "Traceback" not in stderr, stderr
    assert UNEXPECTED not in stderr, stderr
    return subprocess.CompletedProcess(line, done.returncode, stdout, stderr)


# --- Standard input and output


@pytest.mark.parametrize(
    "line",
    [
        "memomalloc check - --json < p.json",
        "cat q.json.gz | memomalloc check - --json",
        "memomalloc check <(cat p.json) --json",
        "memomalloc show - --json < u.jsonl.gz",
        "memomalloc show p.json --json q.json.gz",
        "memomalloc show --json p.json --depth 2 q.json.gz",
        "memomalloc diff <(cat t.jsonl) --json <(cat u.jsonl.gz)",
        "memomalloc diff - u.jsonl.gz --json < t.jsonl",
        "memomalloc plan - --json < b.txt",
        "memomalloc plan <(gzip -c b.csv) --json",
        "memomalloc plan t.jsonl -o - 2>/dev/null | memomalloc check - --json",
        "memomalloc plan b.txt -o - 2>/dev/null | memomalloc plan - --json",
        "memomalloc export - --to chrome - < t.jsonl",
        "memomalloc bench planners - --planners bump --json - < b.txt",
        "memomalloc bench planners b.csv --seed 1 b.txt --planners bump --json -",
    ],
)
def test_standard_input_and_output_do_everywhere(line: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads(done.stdout)


def test_every_kind_of_output_can_be_standard_output() -> None:
    assert shell("memomalloc show t.jsonl --html -").stdout.startswith("<!doctype html>")
    assert "PNG" in shell("memomalloc show t.jsonl --png - | head -c 8").stdout
    assert shell("memomalloc export t.jsonl --to csv -").stdout.startswith("id,lower,upper,size,offset\n")
    assert shell("memomalloc bench planners b.csv --planners bump --markdown -").stdout.startswith("# Planners\n")
    results = shell("memomalloc bench planners b.csv --planners bump --json -").stdout
    Path("r.json").write_text(results)
    assert len(load_results("r.json").rows) == 1


def test_two_results_do_not_share_an_output() -> None:
    for line in ("plan t.jsonl -o - --json", "show t.jsonl --html - --json", "show t.jsonl --html - --table"):
        done = shell(f"memomalloc {line}")
        assert done.returncode == 2
        assert "two results would be written there" in done.stderr
    done = shell("memomalloc bench planners b.csv --json x --markdown ./x")
    assert (done.returncode, Path("x").exists()) == (2, False)


def test_a_file_that_is_called_minus() -> None:
    assert shell("memomalloc plan b.csv -o ./-.json").returncode == 0
    Path("-").write_bytes(Path("p.json").read_bytes())
    assert "valid" in shell("memomalloc check ./- < /dev/null").stdout
    assert "valid" in shell("cp p.json ./--html; memomalloc check -- --html").stdout


def test_closed_and_full_outputs_are_errors_of_a_line() -> None:
    for line in (
        "plan - <&-",
        "plan t.jsonl -o - >&-",
        "show t.jsonl --json > /dev/full",
        "show t.jsonl --html /dev/full",
    ):
        done = shell(f"memomalloc {line}")
        assert done.returncode == 2, line
        assert done.stderr.startswith("memomalloc: error: ")
        assert done.stderr.count("\n") == 1


def test_the_status_is_the_same_with_a_reader_that_goes_away() -> None:
    for line in (
        "check p.json --max-bytes 1KiB",
        "show t.jsonl --json",
        "planners",
        "check p.json --max-bytes 1KiB --json",
    ):
        alone = shell(f"memomalloc {line}").returncode
        piped = shell(f"memomalloc {line} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}")
        gone = shell(f"memomalloc {line} | true; exit ${{PIPESTATUS[0]}}")
        assert piped.returncode == gone.returncode == alone
        assert "BrokenPipe" not in piped.stderr + gone.stderr


# --- Where output goes


def test_links_devices_and_pipes_are_written_to_as_they_are(folder: Path) -> None:
    done = shell(
        "touch real.html; ln -s real.html link.html; memomalloc show t.jsonl --html link.html;"
        "memomalloc show t.jsonl --html /dev/null; mkfifo f; cat f > out.html & memomalloc show t.jsonl --html f; wait"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "link.html").is_symlink()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO((folder / "f").stat().st_mode)
    assert (folder / "real.html").read_bytes() == (folder / "out.html").read_bytes()


def test_mode_is_kept_and_replacing_an_input_is_said() -> None:
    done = shell("cp b.csv own.csv; chmod 600 own.csv; ln -s own.csv l.csv; memomalloc plan own.csv -o l.csv")
    assert done.returncode == 0
    assert "l.csv is read, and replaced by the result" in done.stderr
    assert stat.S_IMODE(os.stat("own.csv").st_mode) == 0o600
    assert Path("own.csv").read_text().startswith("id,lower,upper,size,offset\n")


def test_names_of_any_length_and_bytes() -> None:
    longest = "n" * 250
    assert shell(f"memomalloc plan b.csv -o {longest}.json && memomalloc check {longest}.json").returncode == 0
    assert "too long" in shell(f"memomalloc plan b.csv -o {longest}n.json").stderr
    odd = os.fsdecode(b"\xff\x1b[31m[b]$\\frac{$")
    Path(f"{odd}.jsonl").write_bytes(Path("t.jsonl").read_bytes())
    name = "$'\\xff\\x1b[31m[b]$\\\\frac{$'"
    for options in ("", "--json", f"--html {name}.html --png {name}.png"):
        done = shell(f"memomalloc show {name}.jsonl t.jsonl {options}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
    assert Path(f"{odd}.html").exists()
    assert "\\udcff\\x1b[31m" in shell(f"memomalloc check {name}.jsonl").stderr


# --- Names


NAMES = (
    "[/]",
    "[link=file:///etc/passwd]click[/link]",
    "\x1b]0;pwned\x07\x1b[31mRED",
    "\ud800bad",
    "$x$ $\\frac{$",
    "_under",
    "a\nb\rc",
)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_are_only_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    origins = [Origin((name,), name, SourceLine(name, 1, name), "output", i) for i in range(2)]
    Trace.from_arrays([8192, 64], [0, 1], [2, 3], origins=origins).save("named.jsonl")
    for options in ("", "--by operator --png x.png", "--png x.svg --html x.html", "--json"):
        assert memomalloc.cli.main(["show", "named.jsonl", *options.split()]) == 0
    for command in (
        "diff named.jsonl t.jsonl",
        "export named.jsonl x.json --to chrome",
        "export named.jsonl x.p --to snapshot",
    ):
        assert memomalloc.cli.main(command.split()) == 0
    printed = capsys.readouterr()
    for text in (printed.out, Path("x.html").read_text(encoding="utf-8"), Path("x.svg").read_text(encoding="utf-8")):
        assert not {"\x1b", "\x07", "\r"} & {*text}
    assert printed.err == ""
    if "[" in name and "\x1b" not in name:
        assert name in printed.out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_does(encoding: str) -> None:
    origins = [Origin(("größe",), "深度", SourceLine("x", 1, "y"))]
    Trace.from_arrays([8192], [0], [2], origins=origins).save("named.jsonl")
    done = shell("memomalloc show named.jsonl; memomalloc diff named.jsonl t.jsonl", {"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")
    assert ("\\u6df1" in done.stdout) == (encoding != "utf-8")


# --- Errors


HUGE = "9" * 400
WRONG = (
    f"plan b.csv --seed {HUGE}", f"plan b.csv --capacity {HUGE}", f"plan b.csv --alignment {HUGE}",
    f"plan b.csv --time-limit {HUGE}", f"show b.csv --top {HUGE}", f"show b.csv --depth {HUGE}", "show b.csv --depth 0",
    f"check p.json --max-bytes {HUGE}", f"check p.json --max-bytes {HUGE}TiB", "check p.json --max-bytes 1e5",
    "diff b.csv b.csv --top -3", "show b.csv --nonsense", "show nosuch", "check t.jsonl", "diff t.jsonl", "plan p.json",
    "show a b c", "show cr.csv", "plan cr.csv", "plan b.csv --capacity 1",
)  # fmt: skip


@pytest.mark.parametrize("command", WRONG, ids=lambda command: command.replace(HUGE, "HUGE"))
def test_errors_are_a_line_and_valid_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cr.csv").write_text(CSV.replace("\n", "\r"))
    for as_json in ([], ["--json"]):
        try:
            status = memomalloc.cli.main([*command.split(), *as_json])
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        assert status == (3 if command.endswith("--capacity 1") else 2)
        assert printed.err.startswith("memomalloc: error: ")
        assert printed.err.count("\n") == 1
        assert len(printed.err) < 500
        assert UNEXPECTED not in printed.err
        if as_json:
            found = json.loads(printed.out)
            assert found == {"error": printed.err.removeprefix("memomalloc: error: ").strip(), "status": status}


@pytest.mark.parametrize(
    "options", ["--planners auto,,bump", "--planners auto,auto", "--seed -1", "--time-limit -1", "--time-limit nan"]
)
def test_bad_options_of_a_comparison_are_refused(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        memomalloc.cli.main(["bench", "planners", "b.csv", *options.split()])
    assert capsys.readouterr().err.startswith("memomalloc: error: argument ")


def test_extreme_lifetimes_are_planned_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ortools")
    pytest.importorskip("scipy")
    rows = [f"{i},{-(2**63) + i},{2**63 - 1 - i if i % 2 else -(2**62)},{2**50 + i}\n" for i in range(12)]
    Path("x.csv").write_text("id,lower,upper,size\n" + "".join(rows))
    planners = ["auto", *(planner.name for planner in memomalloc.planners.available() if planner.extra)]
    for planner in planners:
        assert memomalloc.cli.main(["plan", "x.csv", "--planner", planner, "-o", "x.json"]) == 0
    for options in ("", "--json", "--png x.png", "--html x.html"):
        assert memomalloc.cli.main(["show", "x.json", *options.split()]) == 0
    assert capsys.readouterr().err == ""


# --- What is written can be read


@pytest.mark.parametrize("name", ["plan.json", "plan.json.gz"])
def test_a_plan_of_any_size_is_checked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("large.csv").write_text(f"id,lower,upper,size\n0,0,5,{2**40}\n")
    assert memomalloc.cli.main(["plan", "large.csv", "-o", name]) == 0
    for command in ("check", "show", "diff"):
        assert memomalloc.cli.main([command, *[name] * (2 if command == "diff" else 1)]) == 0
    assert memomalloc.cli.main(["check", name, "--max-bytes", "1GiB"]) == 1
    capsys.readouterr()
    problem = Problem.from_arrays([64], [0], [1])
    memomalloc.plan(problem).save("api.gz")
    assert memomalloc.Plan.load("api.gz").arena_bytes == 64


@pytest.mark.parametrize("name", ["B.CSV", "b", "b.CsV.GZ"])
def test_one_rule_says_what_is_csv(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain").write_text(CSV)
    memomalloc.cli.main(["export", "t.jsonl", "out.csv", "--to", "csv"])
    shell(f"cat plain | {'gzip' if name.endswith('GZ') else 'cat'} > {name}")
    for command in ("plan", "show", "bench planners --planners bump"):
        assert memomalloc.cli.main([*command.split(), name]) == 0
    assert memomalloc.cli.main(["diff", name, "b.csv"]) == 0
    capsys.readouterr()


# --- Programs


def test_what_a_program_prints_is_not_in_the_result() -> None:
    pytest.importorskip("torch")
    Path("prog.py").write_text(
        "import os, torch\nprint('printed')\nos.system('echo shell')\nos.write(1, b'raw\\n')\ntorch.ones(3, 8) + 1\n"
    )
    done = shell("memomalloc show prog.py --json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["placements"]
    assert {"printed", "shell", "raw"} <= {*done.stderr.split()}


@pytest.mark.parametrize("status", [0, 7])
def test_a_report_that_cannot_be_written_leaves_the_status_of_the_program(status: int) -> None:
    pytest.importorskip("torch")
    Path("prog.py").write_text(
        "import sys, torch\nnet = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())\n"
        f"with torch.inference_mode():\n    for _ in range(30):\n        net(torch.ones(8, 64))\nsys.exit({status})\n"
    )
    done = shell("memomalloc run --report /dev/full prog.py")
    assert done.returncode == status
    assert done.stderr.startswith("memomalloc: error: no report: ")


def _wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_of_a_program_that_is_examined(number: signal.Signals, folder: Path) -> None:
    pytest.importorskip("torch")
    Path("prog.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pids.new', 'w').write(f'{os.getpid()} {child.pid}')\nos.rename('pids.new', 'pids')\ntime.sleep(600)\n"
    )
    doctor = subprocess.Popen(
        [sys.executable, "-m", "memomalloc", "doctor", "--json", "prog.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _wait_for((folder / "pids").exists, "the program did not begin")
    program, grandchild = map(int, (folder / "pids").read_text().split())
    doctor.send_signal(number)
    stdout, _ = doctor.communicate(timeout=60)
    is_told = number in (signal.SIGTERM, signal.SIGINT)  # who ends the doctor so is told the verdict
    assert doctor.returncode == (0 if is_told else -number)
    _wait_for(lambda: not _is_alive(program), "the program is still there")
    if number == signal.SIGKILL:  # nobody is there to end what the program has started
        os.kill(grandchild, signal.SIGKILL)
    else:
        _wait_for(lambda: not _is_alive(grandchild), "what the program has started is still there")
        found = json.loads(stdout)
        if is_told:
            assert found["was_stopped"]
        else:
            assert found == {"error": f"ended by {number.name}", "status": 128 + number}


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
