"""Every snippet of Python in README and docs runs as it stands, in a process and a folder of its own.

What a comment claims that is printed, ``print(...)  # value`` or ``# value: why``, is what is printed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
CLAIM = re.compile(r"^( *)(print\(.*\))  # (.*)$")


def snippets() -> list[object]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{document.relative_to(ROOT)}:{line}"))
    return found


def _with_marks(snippet: str) -> tuple[str, dict[str, str]]:
    """The snippet, printing a mark before whatever a comment makes a claim about; the claims by mark."""
    claims: dict[str, str] = {}
    lines = snippet.splitlines()
    for number, line in enumerate(lines):
        if (match := CLAIM.match(line)) is not None:
            indent, statement, comment = match.groups()
            mark = f"<{number}> "
            claims[mark] = comment.partition(": ")[0]
            lines[number] = f"{indent}print({mark!r}, end=''); {statement}"
    return "\n".join(lines), claims


def run(snippet: str, folder: Path) -> dict[str, str]:
    """Run a snippet; whatever was printed that a comment claims something else about, by the claim."""
    program, claims = _with_marks(snippet)
    finished = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:memomalloc", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    printed = dict(re.findall(r"^(<\d+> )(.*)$", finished.stdout, re.MULTILINE))
    assert printed.keys() == claims.keys()
    return {claims[mark]: text for mark, text in printed.items() if text != claims[mark]}


@pytest.mark.parametrize("snippet", snippets())
def test_a_snippet_runs_and_prints_what_it_claims(snippet: str, tmp_path: Path) -> None:
    assert run(snippet, tmp_path) == {}


def test_a_wrong_claim_is_found(tmp_path: Path) -> None:
    snippet = "print(1 + 1)  # 2: arithmetic\nfor name in 'a':\n    print(name, 'b')  # a c\nprint('no claim')\n"
    assert run(snippet, tmp_path) == {"a c": "a b"}


def test_readme_makes_a_claim() -> None:
    assert any(_with_marks(match[1])[1] for match in FENCE.finditer((ROOT / "README.md").read_text()))
