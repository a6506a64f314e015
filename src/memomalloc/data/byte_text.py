"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_WRITTEN = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<prefix>[kmgt]?)(?P<binary>i?)b?\s*", re.IGNORECASE)


def byte_text(num_bytes: int) -> str:
    """Three digits and a binary unit: ``11.8 MiB``; whole bytes below 1 KiB. Keeps the sign."""
    value, unit = float(abs(num_bytes)), 0
    # 1023.95 would be rounded to "1024".
    while value >= 1023.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    value += 1e-9  # halves are rounded up, as the memory map in the browser does
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{'-' if num_bytes < 0 else ''}{value:.{digits}f} {_UNITS[unit]}"


def byte_mark(num_bytes: int) -> str:
    """`byte_text` without zeros at the end, for an axis: ``4 MiB``."""
    number, _, unit = byte_text(num_bytes).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def parse_bytes(text: str) -> int:
    """The number of bytes that ``text`` says: ``64MiB``, ``1.5 GiB``, ``500kB`` (decimal), ``4096``; ``M`` is ``MiB``.

    Raises:
        ValueError: it does not say one.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size: write it like 64MiB, 1.5GiB or 4096")
    decimal = match["prefix"] and not match["binary"] and text.rstrip()[-1] in "bB"
    return int(float(match["number"]) * (1000 if decimal else 1024) ** " kmgt".index(match["prefix"].lower() or " "))
