"""Print "VERSION;DIRECTORY" of the torch in this interpreter's environment, or nothing.

Looks at files and imports nothing: under pip's build isolation the environment's packages are hidden from
imports, though they are what the built extension will run with. A torch that is too old for the runtime, or newer than
what was tested, is none: a runtime for a newer one is built and tested at its first use.
"""

import importlib.util
import re
import runpy
import sysconfig
from pathlib import Path

VERSIONS = runpy.run_path(str(Path(__file__).parents[1] / "src" / "memomalloc" / "runtime" / "torch_versions.py"))


def candidates() -> list[Path]:
    """Folders that may hold torch: what this interpreter would import, then its environment's site-packages."""
    folders = [Path(sysconfig.get_paths()[key]) / "torch" for key in ("platlib", "purelib")]
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        folders.insert(0, Path(spec.origin).parent)
    return folders


def main() -> None:
    """Print the first torch that has a version and headers, and is one to build for."""
    for folder in candidates():
        version_file = folder / "version.py"
        if version_file.is_file() and (folder / "include" / "c10").is_dir():
            found = re.search(r"__version__ = ['\"]([^'\"]+)['\"]", version_file.read_text())
            if found:
                minor = VERSIONS["minor_version"](found.group(1))
                if VERSIONS["FIRST_TORCH"] <= minor <= VERSIONS["LAST_TESTED_TORCH"]:
                    print(f"{found.group(1)};{folder}")
                return


if __name__ == "__main__":
    main()
