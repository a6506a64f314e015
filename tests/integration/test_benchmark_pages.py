"""The pages of measurements in the documents are those that the results files make."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Where they are not called alike.
RESULTS = {"time": "time_shares"}
PAGES = sorted(page for page in (ROOT / "docs" / "benchmarks").glob("*.md") if page.stem != "index")


def test_there_are_pages() -> None:
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_made_of_its_results(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    results = Path("benchmarks", "results", f"{RESULTS.get(page.stem, page.stem)}.json")
    (tmp_path / results).parent.mkdir(parents=True)
    shutil.copy(ROOT / results, tmp_path / results)
    folder = Path("docs", "benchmarks")
    (tmp_path / folder).mkdir(parents=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "memomalloc", "bench", "report", str(results)),
            *("-o", str(folder / page.stem), "--markdown", str(folder / page.name)),
        ],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    assert (tmp_path / folder / page.name).read_text() == page.read_text()
    pictures = {picture.name for picture in (tmp_path / folder / page.stem).glob("*.svg")}
    assert pictures == {picture.name for picture in page.with_suffix("").glob("*")}
