"""Rich console for tables and live displays, which escapes control characters as `utils.terminal` does."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from minimind.utils.terminal import accept_any_character, is_terminal, visible


class VisibleConsole(Console):
    """Console without markup or `:emoji:` codes that escapes control characters on a terminal.

    Prefer strings to `Text`, which silently drops some control characters.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        accept_any_character(sys.stderr if stderr else sys.stdout)
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before layout, so that column widths are measured on the escaped text."""
        return super().render_str(self._escape(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape all output except rich's own control codes."""
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else Segment(self._escape(segment.text), segment.style)

    def _escape(self, text: str) -> str:
        return visible(text) if self.is_terminal or is_terminal(self.file) else text
