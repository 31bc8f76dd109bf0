"""A progress bar for each long step, on standard error of the main process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minimind.utils.ranks import is_main_process


@contextmanager
def progress_bar(description: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the bytes just done; shows MB, MB/s and the time left.

    `total_bytes` None: the bar only moves. Off a terminal nothing is drawn but one line when the step is done.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from minimind.utils.console import VisibleConsole

    console = VisibleConsole(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_main_process()) as progress:
        task = progress.add_task(description, total=total_bytes)
        yield lambda done: progress.update(task, advance=done)
