from __future__ import annotations

import pytest

from memomalloc.errors import FileFormatError, InvalidPlanError
from memomalloc.harmless_text import file_stem, harmless, markdown_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("body.0.conv", "body.0.conv"),
        ("Größe 深度 😀", "Größe 深度 😀"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("\ud800bad", "\\ud800bad"),
        ("\U000e0041", "\\U000e0041"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
    ],
)
def test_what_does_more_than_be_read_is_made_visible(text: str, shown: str) -> None:
    assert harmless(text) == shown
    harmless(text).encode()
    assert harmless(harmless(text)) == shown


def test_lines_may_stay() -> None:
    assert harmless("a\n\x1bb\r\n", lines=True) == "a\n\\x1bb\\x0d\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("mobilenet_v2, batch 8: <0.1 > 2.5", "mobilenet_v2, batch 8: <0.1 > 2.5"),
        ("<img src=x onerror=y>", "\\<img src=x onerror=y>"),
        ("</td>", "\\</td>"),
        ("[a](b)", "\\[a\\](b)"),
        ("`x` | *y* _z_ ~~w~~", "\\`x\\` \\| \\*y\\* \\_z\\_ \\~\\~w\\~\\~"),
        ("https://x www.x a@b &lt;", "https\\://x www\\.x a\\@b \\&lt;"),
        ("# title", "\\# title"),
        ("\\", "\\\\"),
    ],
)
def test_nothing_is_markup_in_markdown(text: str, written: str) -> None:
    assert markdown_text(text) == written


def test_a_name_leads_to_no_other_folder() -> None:
    assert file_stem("Latency ratio over ../../etc/passwd") == "latency_ratio_over_etc_passwd"
    assert file_stem("..") == "_"
    assert len(file_stem("x" * 1000)) == 100


def test_errors_are_harmless_whatever_they_quote() -> None:
    error = FileFormatError("\x1b.csv", "a \x1b[31m name", line=1, column="\x1b]0;x\x07")
    assert str(error) == "\\x1b.csv, line 1, column \\x1b]0;x\\x07: a \\x1b[31m name"
    assert str(InvalidPlanError("one\ntwo\x1b")) == "one\ntwo\\x1b"
    assert str(FileFormatError("/dev/stdin", "is empty")) == "standard input: is empty"
