"""All output of the program: on a terminal, characters that would control it are escaped.

Names of runs and arms, samples and error messages may come from untrusted sources: a YAML, a sweep.json, a model.
"""

import io
import re
import sys
from typing import Any, TextIO

from minimind.utils.ranks import is_main_process

# Control characters except newline and tab, line separators, bidirectional marks, lone surrogates …
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# … and the other format characters (Unicode category Cf), except the joiners U+200C and U+200D, which Persian and emoji
# need, and the number signs of Arabic, Syriac and Kaithi, which are visible.
_INVISIBLE = (
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_ESCAPED = re.compile(f"[{_CONTROL}{_INVISIBLE}]")


def visible(text: str) -> str:
    r"""Replace each control or invisible character by an escape such as `\x1b`."""
    return _ESCAPED.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(text: str) -> str:
    """The text in visible characters on a single line."""
    return re.sub(r"[ \t\n]+", " ", visible(text)).strip(" ")


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", raw: bool = False) -> None:
    """Print to standard output or `file` and flush; escape control characters on a terminal unless `raw`."""
    file = sys.stdout if file is None else file
    accept_any_character(file)
    message = str(text)
    print(visible(message) if is_terminal(file) and not raw else message, end=end, file=file, flush=True)


def is_terminal(file: Any) -> bool:
    """Whether the file is a terminal; a closed standard output (None) is not."""
    return file is not None and file.isatty()


def accept_any_character(file: Any) -> None:
    """Write characters that the encoding lacks (under LANG=C, for example) as escapes instead of raising."""
    if isinstance(file, io.TextIOWrapper) and file.errors != "backslashreplace":
        file.reconfigure(errors="backslashreplace")


def warn(message: str) -> None:
    """Print to the main process's standard error, below any progress line."""
    if is_main_process():
        say(f"\n{message}", file=sys.stderr)
