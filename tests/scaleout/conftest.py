"""A Dask cluster of two real worker processes, for all tests of this room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from caloforge.scaleout import DaskExecutor, Rules, open_cluster

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def cluster():
    with open_cluster("local:2") as executor:
        yield executor


@pytest.fixture
def executor(cluster):
    """A fresh executor on the common cluster, which soon holds a task for one that hangs."""
    return DaskExecutor(cluster.client, 2, name="local:2", here=True, rules=Rules(patience=2.0, factor=20.0, wait=3.0))
