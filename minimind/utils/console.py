"""Rich's console for tables and live displays, with the rules of `utils.terminal`."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from minimind.utils.terminal import accept_any_character, is_terminal, visible


class VisibleConsole(Console):
    """Text is literal: no markup, no `:emoji:`; on a terminal, controls are shown. Styles are given as styles.

    Prefer a string to a `Text`, from which rich drops some controls before they come here.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        accept_any_character(sys.stderr if stderr else sys.stdout)
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Before the layout, so that a table measures what it will show."""
        return super().render_str(self._shown(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is printed passes here, as text or as control codes of rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else Segment(self._shown(segment.text), segment.style)

    def _shown(self, text: str) -> str:
        return visible(text) if self.is_terminal or is_terminal(self.file) else text
