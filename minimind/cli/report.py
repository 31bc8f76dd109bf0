"""`minimind report`: run folders → figures, differences with intervals, verdicts, plots."""

import argparse
from pathlib import Path


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser("report", help="compare the runs of a sweep, or runs of your choice")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a sweep folder, or two or more run folders")
    parser.add_argument("--baseline", metavar="ARM", help="compare with this arm (a sweep: its own; runs: the first's)")
    parser.add_argument(
        "--metric", metavar="KEY", help="a figure of summary.json (a sweep: its own; runs: their objective's)"
    )
    parser.set_defaults(action=run)


def run(arguments: argparse.Namespace) -> int:
    from minimind.report.sweep_file import SWEEP_FILE
    from minimind.report.terminal import print_report
    from minimind.report.write import write_report
    from minimind.utils.paths import find_existing

    folders = [find_existing(name, "A sweep or run folder") for name in arguments.folders]
    if len(folders) == 1 and (folders[0] / SWEEP_FILE).is_file():
        report = write_report(folders[0], arguments.baseline, arguments.metric)
    else:
        report = write_report(_sweep_folder(folders, arguments.baseline, arguments.metric))
    print_report(report)
    return 0


def _sweep_folder(runs: list[Path], baseline: str | None, metric: str | None) -> Path:
    from minimind.report.analysis import reframed
    from minimind.report.from_runs import sweep_of
    from minimind.utils.paths import default_root

    sweep = reframed(sweep_of(runs, default_root()), baseline, metric)
    folder = default_root() / "sweeps" / sweep.name
    sweep.save(folder)
    return folder
