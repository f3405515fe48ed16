"""Text that came from jobs, made safe for a terminal."""

from __future__ import annotations

import re
from typing import Final

# C0 and C1 controls, and what turns the direction of text around: with them the data of a job
# could move the cursor, set the title, or make a line read as something else.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    r"""`text` in one line, with every control character shown as an escape (`\x1b`)."""
    return _UNSAFE.sub(_escape, text.replace("\n", " ").replace("\t", " "))


def safe_json(text: str) -> str:
    """JSON text, with the control characters that JSON allows in strings escaped as well."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
