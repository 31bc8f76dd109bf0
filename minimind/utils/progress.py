"""Progress bars on the main process's standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minimind.utils.ranks import is_main_process


@contextmanager
def progress_bar(description: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes just processed; shows MB, MB/s and the remaining time.

    With `total_bytes` None the bar only pulses. Without a terminal, one line is printed at the end.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from minimind.utils.console import VisibleConsole

    console = VisibleConsole(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_main_process()) as progress:
        task = progress.add_task(description, total=total_bytes)
        yield lambda done: progress.update(task, advance=done)
