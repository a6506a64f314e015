"""The examples, run as a user runs them: each engine serves right answers from plans shipped with the model."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
START_TIMEOUT_S = 120


def _run(name: str, *arguments: str, timeout_s: float = 240) -> str:
    child = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "image_model.plans"
    assert "saved 1 plan" in _run("save_plans.py", str(path))
    return path


@pytest.fixture(scope="module")
def classes() -> list[list[int]]:
    """What the model itself answers to requests 0 to 15."""
    spec = importlib.util.spec_from_file_location("image_model", EXAMPLES / "image_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    num_threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    with torch.inference_mode():
        model = module.build()
        answers = [model(module.images(seed)).argmax(dim=1).tolist() for seed in range(16)]
    torch.set_num_threads(num_threads)
    return answers


@contextlib.contextmanager
def _server(command: list[str], plans: Path, health: str) -> Iterator[str]:
    """A server on this machine, and its address; ended with its whole process group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [part.replace("PORT", str(port)) for part in command],
        env={**os.environ, "MODEL_PLANS": str(plans)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address + health, timeout=5).close()
                break
            if server.poll() is not None or time.monotonic() > end:
                raise AssertionError("the server did not start")
            time.sleep(0.2)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate(timeout=30)


def _post(url: str, body: Any = None) -> Any:
    data = json.dumps(body).encode() if body is not None else b""
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_thread_pool() -> None:
    output = _run("thread_pool.py", "4", "60")
    assert "60 of 60 answers equal those of the model" in output
    assert re.search(r"Share served +\| +100.0000%", output)


def test_fastapi(plans: Path, classes: list[list[int]]) -> None:
    for engine in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(engine)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app:app", "--port", "PORT"]
    with _server(command, plans, "/stats") as address, concurrent.futures.ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda seed: _post(f"{address}/predict?seed={seed}"), range(16)))
        assert [answer["classes"] for answer in answers] == classes
        stats = json.load(urllib.request.urlopen(f"{address}/stats"))
        assert (stats["runs_replayed"], stats["runs_recorded"], stats["runs_unplanned"]) == (16, 0, {})
        metrics = urllib.request.urlopen(f"{address}/metrics/").read().decode()
        assert "memomalloc_runs_replayed_total 16.0" in metrics


def test_litserve(plans: Path, classes: list[list[int]]) -> None:
    pytest.importorskip("litserve")
    command = [sys.executable, str(EXAMPLES / "litserve_server.py"), "PORT"]
    with _server(command, plans, "/health") as address:
        answers = [_post(f"{address}/predict", {"seed": seed}) for seed in range(16)]
    assert [answer["classes"] for answer in answers] == classes
    assert {answer["recorded"] for answer in answers} == {0}  # each worker starts armed
    last = {answer["process"]: answer["replayed"] for answer in answers}
    assert sum(last.values()) == 16


@pytest.mark.slow
def test_ray_serve() -> None:
    pytest.importorskip("ray.serve")
    output = _run("ray_serve.py", "24")
    served = re.findall(r"replica \d: (\d+) calls replayed, (\d+) recorded, (\d+) requests upstream", output)
    assert len(served) == 2, output
    assert sum(int(replayed) for replayed, _, _ in served) == 24
    assert {(recorded, upstream) for _, recorded, upstream in served} == {("0", "0")}
