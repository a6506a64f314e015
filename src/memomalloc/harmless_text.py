"""Names from outside as text that can do nothing but be read: in a message, on a terminal, in Markdown, in a picture.

A name is whatever a program or a file called something: a module, an operator, a file, a key, a column. It may hold
escape sequences that a terminal obeys, characters that turn the order of a line round, lone surrogates that no
encoding takes, and the markup of whatever it is shown in. Every name passes through here on its way out.
"""

from __future__ import annotations

import re

#: Control characters of both sets, what turns the direction of a line or hides, private tags, and lone surrogates.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_HARMFUL_BUT_LINES = re.compile(f"(?![\n]){_HARMFUL.pattern}")
#: What begins markup, a link or HTML in Markdown. An underline within a word does not.
_MARKDOWN = re.compile(
    r"[\\`*\[\]|~@]|<(?=[a-z/!?])|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])|:(?=//)|(?<=\bwww)\.|^[#+=>-]", re.IGNORECASE
)


def harmless(text: object, *, lines: bool = False) -> str:
    r"""The text with a visible ``\x1b`` or ``\u202e`` for each character that does more than be read.

    Args:
        text: anything; what ``str`` gives of it.
        lines: line feeds stay: the text may have several lines. Else they are made visible as well.
    """
    return (_HARMFUL_BUT_LINES if lines else _HARMFUL).sub(_visible, str(text))


def markdown_text(text: object) -> str:
    """The text for Markdown and the cells of its tables: nothing in it is markup, a link or HTML."""
    return _MARKDOWN.sub(r"\\\g<0>", harmless(text))


def file_stem(text: object) -> str:
    """The text as a part of a file's name: at most 100 small letters, digits, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9_-]+", "_", str(text).lower()).strip("_")[:100] or "_"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
