from __future__ import annotations

import pytest

from memomalloc.data.byte_text import byte_mark, byte_text, parse_bytes


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (4_325_376, "4.13 MiB"),  # 4.125: halves go up
        (2**20 - 1, "1.00 MiB"),
        (150 * 2**20, "150 MiB"),
        (-3 * 2**19, "-1.50 MiB"),
        (2**63, "8.00 EiB"),
    ],
)
def test_bytes_have_three_digits_and_a_unit(num_bytes: int, text: str) -> None:
    assert byte_text(num_bytes) == text


def test_marks_of_an_axis_have_no_false_digits() -> None:
    assert [byte_mark(n) for n in (0, 100, 4 * 2**20, 3 * 2**19, 100 * 2**20)] == [
        "0 B", "100 B", "4 MiB", "1.5 MiB", "100 MiB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("4096", 4096),
        ("64MiB", 64 * 2**20),
        (" 1.5 GiB ", 3 * 2**29),
        ("500kB", 500_000),
        ("2M", 2 * 2**20),
        ("7b", 7),
    ],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e9", "12 apples", "1,5MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_bytes(text)
