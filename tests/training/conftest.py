"""Lightning's advice is no part of these tests."""

import pytest


@pytest.fixture(autouse=True)
def _quiet() -> None:
    from minimind.cli.processes import quiet_libraries

    quiet_libraries()
