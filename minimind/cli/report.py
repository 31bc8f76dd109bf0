"""`minimind report`: compares runs in metrics, differences with confidence intervals, verdicts and plots."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("report", help="compare the runs of a sweep, or any runs")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a sweep folder, or two or more run folders")
    parser.add_argument(
        "--baseline", metavar="ARM", help="arm to compare with; default: the sweep's, or the first run's"
    )
    parser.add_argument(
        "--metric", metavar="KEY", help="key in summary.json; default: the sweep's, or that of the runs' objective"
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
