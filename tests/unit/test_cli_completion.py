from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from memomalloc.cli import COMMANDS, main
from memomalloc.cli.completion import SHELLS

pytest.importorskip("shtab", reason="completions need shtab: pip install 'memomalloc[cli]'")


@pytest.fixture
def bash_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "memomalloc.bash"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word of a command line."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_memomalloc; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    found = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=script.parent, check=True)
    return found.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_and_files(bash_script: Path) -> None:
    assert set(completed(bash_script, "memomalloc", "")) == set(COMMANDS)
    assert completed(bash_script, "memomalloc", "sho") == ["show"]
    assert "--html" in completed(bash_script, "memomalloc", "show", "--h")
    assert completed(bash_script, "memomalloc", "check", "memo") == ["memomalloc.bash"]
    assert completed(bash_script, "memomalloc", "show", "memo") == ["memomalloc.bash"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "memomalloc" in capsys.readouterr().out
