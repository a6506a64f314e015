from __future__ import annotations

from pathlib import Path

import pytest

import memomalloc
from memomalloc.errors import FileFormatError
from memomalloc.integrations.iree import read_iree_dump

DUMP = Path(__file__).parents[1] / "compiler_dumps" / "iree.mlir"
TEXT = """
util.func public @first(%arg0: !hal.buffer_view) {
  %c100 = arith.constant 100 : index
  %c0 = arith.constant 0 : index
  %true = arith.constant true
  %0:3 = stream.resource.pack on(#hal.device.affinity<@d>) offset(%c0) slices({
    [0, 1] = %c100,
    [1, 2] = %c100
  }) : index
}
util.func private @second() {
  %c100 = arith.constant 7 : index
  %a.b-0 = arith.constant 300 : index
  %0:2 = stream.resource.pack slices({ [4, 9] = %a.b-0 }) : index
  %1:2 = stream.resource.pack slices({ [0, 0] = %c100 }) : index
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump.mlir"


def test_a_real_dump() -> None:
    (dumped,) = read_iree_dump(DUMP)
    assert dumped.name == "@main %4"
    assert dumped.problem.starts.tolist() == [0, 1, 2, 3, 4, 5]
    assert dumped.problem.ends.tolist() == [2, 7, 4, 6, 6, 7]
    planned = memomalloc.plan(dumped.problem)
    assert planned.arena_bytes == planned.lower_bound_bytes == 4 * 32768


def test_each_pack_with_the_constants_of_its_function(path: Path) -> None:
    path.write_text(TEXT)
    first, second, third = read_iree_dump(path, alignment_bytes=1)
    assert (first.name, second.name, third.name) == ("@first %0", "@second %0", "@second %1")
    assert first.problem.sizes.tolist() == [100, 100]
    # Both ends of a lifetime are in it.
    assert first.problem.ends.tolist() == [2, 3]
    assert second.problem.sizes.tolist() == [300]
    assert third.problem.sizes.tolist() == [7]
    assert {dumped.own_bytes for dumped in (first, second, third)} == {None}


def test_functions_printed_twice_have_names_of_their_own(path: Path) -> None:
    path.write_text(TEXT + TEXT)
    names = [dumped.name for dumped in read_iree_dump(path)]
    assert len(set(names)) == len(names) == 6


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ("stream.resource.pack", "stream.resource.alloca", "no stream.resource.pack", None),
        ("= %c100,", "= %size,", "%size is known at run time only", 6),
        ("[0, 1]", "[0, %c1]", "another form", 6),
        ("offset(%c0)", "offset(%c100)", "begin at %c100", 6),
        ("[1, 2]", "[2, 1]", "is empty", 6),
        ("constant 100 ", "constant -100 ", "must not be negative", 6),
        ("constant 100 ", f"constant {10**30} ", "64 bits", 6),
    ],
)
def test_what_cannot_be_planned_is_refused(path: Path, old: str, new: str, message: str, line: int | None) -> None:
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(FileFormatError, match=message) as caught:
        read_iree_dump(path)
    assert caught.value.line == line


def test_a_dump_that_ends_early_is_refused(path: Path) -> None:
    path.write_text(TEXT[: TEXT.index("[1, 2]")])
    with pytest.raises(FileFormatError, match="ends within"):
        read_iree_dump(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match="not UTF-8"):
        read_iree_dump(path)
