"""Fixtures for every test of the workspace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a hub call without network retries for 23 s; offline it answers at once


@pytest.fixture(scope="session")
def requires_data() -> Path:
    """The folder of real test data, or a skip: a user's clone has none and passes without."""
    folder = os.environ.get("MODBRIDGE_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set MODBRIDGE_TEST_DATA to the folder that holds it")
    return Path(folder)
