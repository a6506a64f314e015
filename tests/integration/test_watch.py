"""``memomalloc watch``: a process that runs already, from outside and by its socket."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memomalloc.cli import main
from memomalloc.doctor.attached import AttachError, let_watch, runtime_folder


@contextmanager
def process(code: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-c", inspect.cleandoc(code)],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    try:
        assert started.stdout.readline() == "ready\n"
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def watched(pid: int, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["watch", "--once", "--json", str(pid)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_any_process_is_seen_from_outside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with process("kept = b'x' * (32 << 20); print('ready', flush=True); input()") as started:
        found = watched(started.pid, capsys)
        assert not found["is_seen_inside"]
        assert found["resident_bytes"] > 32 << 20
        assert sum(found["account_bytes"].values()) == pytest.approx(found["resident_bytes"], rel=0.05)
        assert found["account_bytes"]["files mapped"] > 0
        assert main(["watch", "--once", str(started.pid)]) == 0
        assert "seen from outside alone" in capsys.readouterr().out


def test_a_process_that_listens_says_who_holds_its_memory_and_so_do_its_forks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
        import os, time
        from memomalloc.doctor.attached import let_watch
        let_watch()
        kept = [b"x" * (1 << 20) for _ in range(24)]
        worker = os.fork()
        if worker == 0:
            mine = [b"y" * (1 << 20) for _ in range(8)]
            time.sleep(60)
        print("ready", flush=True)
        input()
    """
    with process(code) as started:
        found = watched(started.pid, capsys)
        assert found["is_seen_inside"]
        assert found["num_children"] == 1
        assert [(holder["path"], holder["what"]) for holder in found["holders"][:1]] == [
            ("kept in __main__", "a list of 24")
        ]
        (worker,) = (int(path.stem) for path in runtime_folder().glob("*.sock") if path.stem != str(started.pid))
        paths = {holder["path"] for holder in watched(worker, capsys)["holders"]}
        assert {"kept in __main__", "mine in __main__"} <= paths
        os.kill(worker, 9)


def test_a_signal_has_an_account_taken_from_which_growth_is_counted(folder: Path) -> None:
    code = """
        import os
        from memomalloc.doctor.attached import let_watch
        let_watch()
        kept = [b"x" * (24 << 20)]
        print("ready", flush=True)
        for line in iter(input, ""):
            kept.append(b"x" * (int(line) << 20))
            print("kept", flush=True)
    """
    with process(code) as started:
        command = [sys.executable, "-m", "memomalloc", "watch", "--json", "--every", "600", str(started.pid)]
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        told = watching.stdout
        assert started.stdin is not None
        assert started.stdout is not None
        assert told is not None
        try:
            assert sum(json.loads(told.readline())["account_growth_bytes"].values()) == 0
            for mib in (8, 16, 8):
                started.stdin.write(f"{mib}\n")
                started.stdin.flush()
                assert started.stdout.readline() == "kept\n"
                watching.send_signal(signal.SIGUSR1)
                # What grew before the last signal is not counted again.
                grown = json.loads(told.readline())["account_growth_bytes"]
                assert grown["Python's objects"] == pytest.approx(mib << 20, abs=1 << 20)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(timeout=60) == 0
        finally:
            watching.kill()
            watching.wait()


def test_only_its_owner_may_look_into_a_process(folder: Path) -> None:
    let_watch()
    (own,) = runtime_folder().glob("*.sock")
    assert own.stem == str(os.getpid())
    assert [oct(path.stat().st_mode)[-3:] for path in (own, own.parent)] == ["600", "700"]
    own.parent.chmod(0o755)
    with pytest.raises(AttachError, match="is not a folder of this user's alone"):
        runtime_folder()
    let_watch()  # and nothing happens: a program is not kept from running
    own.parent.chmod(0o700)


def test_a_process_that_is_not_there_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert main(["watch", str(gone.pid)]) == 2
    assert f"process {gone.pid} cannot be watched" in capsys.readouterr().err
