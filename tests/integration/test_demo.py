"""``memomalloc demo``: what it shows is what it measured, and it really replayed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from child_process import run_python
from process_group import wait_until_ended

COMMAND = [sys.executable, "-m", "memomalloc", "demo", "--smoke"]


def test_every_row_is_served_from_its_plan_and_equal(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    finished = subprocess.run([*COMMAND, "--json", str(path)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr + finished.stdout
    rows = json.loads(path.read_text())["rows"]
    assert [(row["model"], row["batch"]) for row in rows] == [
        (model, batch) for model in ("mobilenet_v2", "resnet_50", "bert_small") for batch in (1, 2)
    ]
    for row in rows:
        assert row["status"] == "ok", row["error"]
        assert row["results_equal"] is True
        assert row["requests_served_share"] == 1.0
        assert row["requests_per_call"] > 50
        assert row["num_pairs"] == len(row["samples"]["planned_ms"]) == len(row["samples"]["upstream_ms"]) >= 2
        assert 0 < row["lower_bound_bytes"] <= row["arena_bytes"]
        assert row["planned_peak_bytes"] > 0
    assert "equal bit for bit in every row" in finished.stdout
    assert "361 of 361" in finished.stdout


def test_ctrl_c_ends_it_and_all_its_processes() -> None:
    with subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()  # the line that is printed before the first row
        time.sleep(2)
        os.killpg(demo.pid, signal.SIGINT)
        _, complaints = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "Traceback" not in complaints
    wait_until_ended(demo.pid)


@pytest.mark.parametrize("package", ["rich", "transformers"])
def test_a_missing_package_is_named_with_the_command(package: str) -> None:
    child = run_python(f"""
        import sys
        sys.modules[{package!r}] = None
        from memomalloc.cli import main
        sys.exit(main(["demo", "--smoke"]))
    """)
    assert child.returncode != 0
    assert "pip install 'memomalloc[demo]'" in child.stderr
    assert "Traceback" not in child.stderr
