"""The content of the wheel, pinned constraints, and recorded versions."""

import subprocess
import sys
import zipfile
from pathlib import Path

from minimind.runs.source import versions

REPOSITORY = Path(__file__).resolve().parent.parent


def test_the_wheel_contains_the_configuration(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    options = {path.relative_to(REPOSITORY / "conf").as_posix() for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert {f"minimind/conf/{option}" for option in options} <= names
    assert "hydra_plugins/minimind.py" in names
    printed = subprocess.run(
        [sys.executable, "-c", "from minimind.utils.paths import conf_dir; print(conf_dir())"],
        cwd=tmp_path / "site", capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    assert Path(printed) == tmp_path / "site" / "minimind" / "conf"


def test_constraints_pin_versions_without_urls_or_local_builds() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in lines
    assert all("==" in line and "/" not in line and "+" not in line and "@" not in line for line in lines)


def test_versions_include_the_packages_that_affect_metrics() -> None:
    assert {"python", "torch", "lightning", "tokenizers"} <= set(versions())
