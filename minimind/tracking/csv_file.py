"""metrics.csv: the rows of metrics.jsonl for spreadsheets, written by Lightning's CSVLogger."""

import shutil

from lightning.pytorch.loggers import CSVLogger

from minimind.runs.folder import RunFolder
from minimind.runs.metrics_file import read_rows
from minimind.tracking.run_logger import RunLogger


class CsvFile(RunLogger, CSVLogger):
    """Lightning starts a new file each time; the run's earlier rows are written to it first."""

    def __init__(self, run: RunFolder, resume_step: int) -> None:
        shutil.rmtree(run.path / "csv", ignore_errors=True)
        CSVLogger.__init__(self, save_dir=run.path, name="csv", version="", flush_logs_every_n_steps=1)
        for row in read_rows(run.metrics):
            self.experiment.log_metrics(row, row["step"])
        self.save()
