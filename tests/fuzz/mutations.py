"""Changes to files as damage, mistakes and malice make them. Equal seeds give equal changes."""

from __future__ import annotations

import random
import re

#: What readers of numbers, texts and structures were ever caught by.
TOKENS = [
    *(str(sign * value + near).encode() for sign in (1, -1) for value in (0, 2**31, 2**53, 2**61, 2**63, 2**64)
      for near in (-1, 0, 1)),
    b"1" * 400, b"-" + b"9" * 5000, b"0" * 40, b"1e400", b"1e308", b"-1e-400", b"1.0", b"0.5", b"-0", b"+1",
    b"1_000", b"0x10", b"NaN", b"Infinity", b"-Infinity", b"nan", b"inf", b"true", b"false", b"null", b"[]",
    b"{}", b'""', b'"a"', b"[[]]", b",", b",,", b"[" * 50, b"{" * 50, b"[" * 3000, b'{"a":' * 500, b"]", b"}",
    b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf",
    b"\r", b"\r\n", b"\n", b"\n\n", b"\t", b" ", b"\x0b", b"\x1b[31m", b"\x1b]0;x\x07", "\u202e".encode(),
    "\u2028".encode(), "\U0001f600".encode(), "٣".encode(), b"[/]", b"[link=file:///x]y[/link]", b"$\\frac{$",
    b"<script>", b"</script>", b"`x`", b"|", b"../../x", b"%s%n", b"A" * 300, b"A" * 70000, b"PK\x01\x02",
    b"PK\x05\x06", b"\x1f\x8b",
]  # fmt: skip
#: What is large is tried by tests of its own.
MAX_BYTES = 2**19
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_VALUE = re.compile(rb'-?\d+(?:\.\d+)?|"[^"\n]*"|\[[^\[\]\n]*\]|true|false|null')


def mutated(content: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    """A file with one to four changes, seldom more.

    Args:
        content: of the file.
        choose: says what is changed, and where.
        others: files of the same kind, which parts may come from.
    """
    for _ in range(choose.choice((1, 1, 1, 2, 2, 3, 4, 12))):
        content = choose.choice(_CHANGES)(content, choose, others)[:MAX_BYTES]
    return content


def _flip(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    if not content:
        return content
    at = choose.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << choose.randrange(8))]) + content[at + 1 :]


def _overwrite(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    at = choose.randint(0, len(content))
    new = choose.randbytes(choose.choice((1, 1, 2, 4, 8)))
    return content[:at] + new + content[at + len(new) :]


def _insert_token(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    at = choose.randint(0, len(content))
    return content[:at] + choose.choice(TOKENS) + content[at:]


def _cut(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    start = choose.randint(0, len(content))
    return content[:start] + content[start + choose.choice((1, 2, 8, 64, 1000)) :]


def _truncate(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    return content[: choose.randint(0, len(content))]


def _repeat(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    start = choose.randint(0, len(content))
    part = content[start : start + choose.choice((1, 4, 30, 200))]
    return content[:start] + part * choose.choice((2, 2, 3, 50, 1000)) + content[start:]


def _splice(content: bytes, choose: random.Random, others: list[bytes]) -> bytes:
    other = choose.choice(others)
    start = choose.randint(0, len(other))
    at = choose.randint(0, len(content))
    part = other[start : start + choose.choice((10, 100, 1000))]
    return content[:at] + part + content[at + choose.choice((0, len(part))) :]


def _swap_lines(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    if len(lines) < 2:
        return content
    one, other = choose.randrange(len(lines)), choose.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _change_line(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    at = choose.randrange(len(lines))
    lines[at : at + 1] = choose.choice(([], [lines[at]] * 2, [lines[at]] * 100, [lines[at].rstrip(b"\n")]))
    return b"".join(lines)


def _replace(pattern: re.Pattern[bytes], content: bytes, choose: random.Random) -> bytes:
    found = list(pattern.finditer(content))
    if not found:
        return content
    match = choose.choice(found)
    values = [*TOKENS, *(other[0] for other in (choose.choice(found), choose.choice(found)))]
    if pattern is _NUMBER and choose.random() < 0.6:
        try:
            number = int(match[0])
            values = [str(number + change).encode() for change in (-1, 1, 64, -64, number, -2 * number)]
        except ValueError:
            pass
    return content[: match.start()] + choose.choice(values) + content[match.end() :]


def _change_number(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    return _replace(_NUMBER, content, choose)


def _change_value(content: bytes, choose: random.Random, _: list[bytes]) -> bytes:
    return _replace(_VALUE, content, choose)


_CHANGES = (
    _flip, _overwrite, _insert_token, _cut, _truncate, _repeat, _splice, _swap_lines, _change_line,
    _change_number, _change_number, _change_number, _change_value, _change_value,
)  # fmt: skip
