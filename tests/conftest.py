"""What the tests share: where outside data lies."""

import os
from pathlib import Path

import pytest


def outside(variable: str, folder: str) -> Path:
    """A folder beside the project, or wherever the environment variable says; skip where there is none."""
    path = Path(os.environ.get(variable) or Path(__file__).parent.parent / "../shared" / folder)
    if not path.is_dir():
        pytest.skip(f"no folder {path}; set {variable} to where it is")
    return path


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """e3nn's own numbers."""
    return outside("EQPOT_GOLDEN", "golden")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Published data sets as they were downloaded."""
    return outside("EQPOT_DATA", "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_packaging.py")
