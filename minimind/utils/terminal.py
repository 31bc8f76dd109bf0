"""Everything that is printed: on a terminal, characters that would control it are shown, not obeyed.

Names of runs and arms, samples and messages of errors may come from others: from a YAML, a sweep.json, a model.
"""

import io
import re
import sys
from typing import Any, TextIO

from minimind.utils.ranks import is_main_process

# Control characters but newline and tab, line separators, marks that turn the direction of text, lone surrogates …
_ACTING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# … and the other format characters (Unicode's category Cf): but the joiners U+200C and U+200D, which Persian and emoji
# need, and the number signs of Arabic, Syriac and Kaithi, which are seen.
_UNSEEN = (
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_NOT_AS_IT_IS = re.compile(f"[{_ACTING}{_UNSEEN}]")


def visible(text: str) -> str:
    r"""The text with an escape such as `\x1b` in place of each character that acts, or is not seen."""
    return _NOT_AS_IT_IS.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """The text in visible characters, without line breaks."""
    return re.sub(r"[ \t\n]+", " ", visible(text)).strip(" ")


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", raw: bool = False) -> None:
    """Prints to standard output or `file`: visible on a terminal unless `raw`, as it is elsewhere; flushes."""
    file = sys.stdout if file is None else file
    accept_any_character(file)
    said = str(text)
    print(visible(said) if is_terminal(file) and not raw else said, end=end, file=file, flush=True)


def is_terminal(file: Any) -> bool:
    """Whether what is written there is obeyed by a terminal; a closed standard output (None) is none."""
    return file is not None and file.isatty()


def accept_any_character(file: Any) -> None:
    """A character that the encoding lacks (of LANG=C, of Latin-1) is written as an escape instead of raising."""
    if isinstance(file, io.TextIOWrapper) and file.errors != "backslashreplace":
        file.reconfigure(errors="backslashreplace")


def warn(message: str) -> None:
    """On standard error of the first process, below a progress line if there is one."""
    if is_main_process():
        say(f"\n{message}", file=sys.stderr)
