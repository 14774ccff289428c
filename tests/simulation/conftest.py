from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def table_cache(tmp_path_factory):
    """Built-in tables in a directory of this test run, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALOFORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
