"""Silences Lightning's advice in these tests."""

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> None:
    from minimind.cli.processes import quiet_libraries

    quiet_libraries()
