from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memomalloc import DeviceProblem, plan_device
from memomalloc.data import Problem
from memomalloc.data.any_file import read_problem
from memomalloc.data.minimalloc_csv import read_minimalloc_csv, write_minimalloc_csv
from memomalloc.errors import FileFormatError
from memomalloc.planners import plan


def read_text(folder: Path, text: str | bytes) -> Problem:
    path = folder / "buffers.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_minimalloc_csv(path)


def test_reads_columns_in_any_order(tmp_path: Path) -> None:
    problem = read_text(tmp_path, "size, upper,ID,lower\n7,3,0,1\n5,9,1,2\n")
    assert problem.sizes.tolist() == [7, 5]
    assert problem.starts.tolist() == [1, 2]
    assert problem.ends.tolist() == [3, 9]
    assert problem.ids is None


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    problem = read_text(tmp_path, b'\xef\xbb\xbfid,lower,upper,size\r\n"a,b",0, 1 ,64\r\n\r\nc,0,1,64\r\n')
    assert problem.ids == ("a,b", "c")
    assert problem.sizes.tolist() == [64, 64]


def test_reads_alignments_and_pins(tmp_path: Path) -> None:
    problem = read_text(tmp_path, "id,lower,upper,size,alignment,offset\n5,0,1,3,8,16\n6,0,1,3,1,-1\n7,0,1,1,1,\n")
    assert problem.ids == ("5", "6", "7")
    assert problem.alignments is not None
    assert problem.alignments.tolist() == [8, 1, 1]
    assert problem.pinned_offsets is not None
    assert problem.pinned_offsets.tolist() == [16, -1, -1]


@pytest.mark.parametrize(
    "header", ["buffer,start,end,size", "buffer_id,begin,end,size,gaps", "id,lower,end,size,hint", "ID,Start,END,Size"]
)
def test_reads_the_other_names_of_minimalloc(tmp_path: Path, header: str) -> None:
    rows = ",".join(["{},{},{},{}"] + [""] * (header.count(",") - 3))
    path = tmp_path / "problem.csv"
    path.write_text("\n".join([header, rows.format(7, 0, 4, 100), rows.format("x", 5, 5, 20)]) + "\n")
    problem = read_minimalloc_csv(path)
    assert problem.starts.tolist() == [0, 5]
    assert problem.ends.tolist() == [5, 6], "an end is the last tick of a lifetime"
    assert problem.sizes.tolist() == [100, 20]
    assert problem.ids == ("7", "x")


def test_the_last_tick_of_a_lifetime_in_a_file_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "problem.csv"
    path.write_text("buffer_id,start,end,size,hint\n0,0,4,100,8\n1,5,5,20,-1\n")
    problem = read_minimalloc_csv(path)
    assert problem.ends.tolist() == [5, 6]


def test_header_without_rows_is_an_empty_problem(tmp_path: Path) -> None:
    assert len(read_text(tmp_path, "id,lower,upper,size\n")) == 0


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, None, "the file is empty"),
        ("lower,upper,size\n", 1, "id", "the column is missing"),
        ("id,lower,upper,size,colour\n", 1, "colour", "unknown column"),
        ("id,lower,upper,size,gaps\n0,0,9,1,2-3\n", None, None, "gaps in lifetimes"),
        ("id,lower,upper,size,gaps\n0,0,9,1,2\n", 2, "gaps", "'2' is no gap"),
        ("id,lower,upper,size,gaps\n0,0,9,1,2-3@1\n", 2, "gaps", "is no gap"),
        ("id,lower,upper,size,gaps\n0,0,9,1,3-3\n", 2, "gaps", "is empty, or not within"),
        ("id,lower,upper,size,gaps\n0,0,9,1,8-10\n", 2, "gaps", "not within"),
        ("id,lower,upper,size,gaps\n0,0,9,1,2-3@0:2\n", 2, "gaps", "not within"),
        ("id,lower,upper,size,gaps\n0,0,9,1,4-6 2-5\n", 2, "gaps", "overlap"),
        ("id,lower,start,upper,size\n", 1, "lower", "two columns"),
        ("id,lower,end,size\n0,0,9223372036854775807,1\n", 2, "upper", "not between"),
        ("id,lower,end,size\n0,3,2,1\n", 2, "upper", "empty"),
        ("id,lower,lower,upper,size\n", 1, "lower", "two columns"),
        ("0,0,1,5\n", 1, "0", "unknown column"),
        ("id,lower,upper,size\n0,1,2,3\n1,1,2\n", 3, None, "3 fields where the header has 4"),
        ("id,lower,upper,size\n0,1,2,3,4\n", 2, None, "5 fields"),
        ("id,lower,upper,size\n0,1,2,x\n", 2, "size", "'x' is not a whole number"),
        ("id,lower,upper,size\n0,1,2,1.5\n", 2, "size", "not a whole number"),
        ("id,lower,upper,size\n0,1,2,nan\n", 2, "size", "not a whole number"),
        ("id,lower,upper,size\n0,1,2,1_0\n", 2, "size", "not a whole number"),
        ("id,lower,upper,size\n0,1,2,\n", 2, "size", "not a whole number"),
        ("id,lower,upper,size\n0,1,2,-3\n", 2, "size", "-3 is not between"),
        ("id,lower,upper,size\n0,1,2,9223372036854775808\n", 2, "size", "is not between"),
        (f"id,lower,upper,size\n0,1,2,{'9' * 10_000}\n", 2, "size", "not a whole number"),
        ("id,lower,upper,size\n0,0,1,1\n\n7,5,5,1\n", 4, "upper", r"lifetime \[5, 5\) is empty"),
        ("id,lower,upper,size,alignment\n0,0,1,1,0\n", 2, "alignment", "0 is not between"),
        ("id,lower,upper,size,offset\n0,0,1,1,-7\n", 2, "offset", "-7 is not between"),
        ('id,lower,upper,size\n"0,0,1,1\n', 2, None, "not CSV"),
        (b"id,lower,upper,size\n0,0,1,\xff\n", 2, None, "not UTF-8"),
        (b"\xff\xfe\x00", 1, None, "not UTF-8"),
        (b"\x7fELF\x00\x00", 1, None, "not a CSV file"),
        (b"x" * 100_000, 1, None, "not a CSV file"),
    ],
)
def test_faults_are_located(
    tmp_path: Path, text: str | bytes, line: int | None, column: str | None, message: str
) -> None:
    with pytest.raises(FileFormatError, match=message) as caught:
        read_text(tmp_path, text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert "buffers.csv" in str(caught.value)


def test_sizes_that_overflow_together(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="sum to more"):
        read_text(tmp_path, "id,lower,upper,size\n" + "".join(f"{i},0,1,{2**62}\n" for i in range(3)))


def test_pins_that_overlap(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="pinned to the same bytes"):
        read_text(tmp_path, "id,lower,upper,size,offset\n0,0,1,5,0\n1,0,1,5,4\n")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        read_minimalloc_csv(tmp_path / "none.csv")
    with pytest.raises(FileFormatError, match="folder"):
        read_minimalloc_csv(tmp_path)


def test_round_trip_with_a_plan(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    starts = random.integers(0, 50, 300)
    problem = Problem.from_arrays(
        random.integers(0, 99, 300),
        starts,
        starts + random.integers(1, 9, 300),
        alignment_bytes=1,
        alignments=random.choice([1, 4], 300),
        ids=[f'buffer "{i}", of {i % 3}' for i in range(300)],
    )
    planned = plan(problem)
    path = tmp_path / "planned.csv"
    write_minimalloc_csv(problem, path, planned.offsets)
    again = read_minimalloc_csv(path)
    for name in ("sizes", "starts", "ends", "alignments"):
        assert (getattr(again, name) == getattr(problem, name)).all()
    assert again.ids == problem.ids
    assert again.pinned_offsets is not None
    assert (again.pinned_offsets == planned.offsets).all()
    assert (plan(again).offsets == planned.offsets).all()
    assert path.read_text().startswith("id,lower,upper,size,alignment,offset\n")


def test_round_trip_without_a_plan(tmp_path: Path) -> None:
    problem = Problem.from_arrays([3, 4], [0, 1], [5, 6], alignment_bytes=1)
    path = tmp_path / "buffers.csv"
    write_minimalloc_csv(problem, path)
    assert path.read_text() == "id,lower,upper,size\n0,0,5,3\n1,1,6,4\n"


def test_many_rows(tmp_path: Path) -> None:
    n = 200_000
    starts = np.arange(n)
    problem = Problem.from_arrays(np.full(n, 7), starts, starts + 3, alignment_bytes=1)
    path = tmp_path / "many.csv"
    write_minimalloc_csv(problem, path)
    assert (read_minimalloc_csv(path).sizes == problem.sizes).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("7,0,1,8\n8,0,1,8\n7,2,3,8\n", "line 4, column id: '7' is the id of line 2 as well"),
        ("a,0,1,8\nb,0,1,8\na,2,3,8\n", "line 4, column id: 'a' is the id of line 2 as well"),
        (f"a,0,1,{2**60}\nb,0,1,{2**61}\n", r"up to buffer 1 \(id b, line 3\) the sizes sum to more"),
    ],
)
def test_faults_of_several_rows_name_their_lines(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "buffers.csv"
    path.write_text("id,lower,upper,size\n" + rows)
    with pytest.raises(FileFormatError, match=message):
        read_minimalloc_csv(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,0,1,8,8,3\n", r"buffer 0 \(id a, line 2\): pinned offset 3 is not a multiple"),
        ("a,0,1,8,1,4\nb,0,1,8,1,0\n", r"\(id a, line 2\).*pinned to the same bytes|\(id b, line 3\) and"),
    ],
)
def test_faults_of_pins_name_their_lines(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "buffers.csv"
    path.write_text("id,lower,upper,size,alignment,offset\n" + rows)
    with pytest.raises(FileFormatError, match=message):
        read_minimalloc_csv(path)


@pytest.mark.parametrize(
    ("header", "gaps"), [("id,lower,upper,size,gaps", "2-5 6-8@0:64"), ("buffer,start,end,size,gaps", "2-4 6-7@0:64")]
)
def test_gaps_make_a_problem_for_a_device(tmp_path: Path, header: str, gaps: str) -> None:
    path = tmp_path / "buffers.csv"
    last = 0 if "upper" in header else -1
    path.write_text(f"{header}\na,0,{10 + last},128,{gaps}\nb,2,{5 + last},128,\nc,6,{8 + last},64,\n")
    problem = read_problem(path)
    assert isinstance(problem, DeviceProblem)
    assert problem.buffers[0].lifetimes == ((0, 2), (5, 6), (6, 8, 0, 64), (8, 10))
    assert plan_device(problem).arena_bytes == {"memory": 128}


def test_a_buffer_that_is_all_gap_takes_no_space(tmp_path: Path) -> None:
    path = tmp_path / "buffers.csv"
    path.write_text("id,lower,upper,size,gaps\na,0,10,128,0-10\nb,2,5,128,\n")
    problem = read_problem(path)
    assert isinstance(problem, DeviceProblem)
    assert plan_device(problem).arena_bytes == {"memory": 128}


@pytest.mark.parametrize("number", ["10\u01fe", "1\u0660", "\u0661", "1\u00b2"])
def test_letters_that_look_like_digits_are_none(tmp_path: Path, number: str) -> None:
    path = tmp_path / "buffers.csv"
    path.write_text(f"id,lower,upper,size\n0,0,1,{number}\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match="line 2, column size"):
        read_minimalloc_csv(path)


def test_a_long_id_is_cut_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "buffers.csv"
    path.write_text(f"id,lower,upper,size\n0,0,1,1\n{'x' * 5000},0,1,{2**61}\n")
    with pytest.raises(FileFormatError) as caught:
        read_minimalloc_csv(path)
    assert len(str(caught.value)) < 500
