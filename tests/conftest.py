"""What every test may rely on."""

from __future__ import annotations

import os
import signal

import pytest

# A shell that starts the tests in the background makes them deaf to Ctrl-C, which many of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kernels() -> object:
    """The compiled kernels. Where there must be some, as in CI, a test that needs them fails without them."""
    from caloforge.kernels.ops.registry import kernel_library

    library = kernel_library()
    if library is None:
        if os.environ.get("CALOFORGE_TESTS_WITHOUT_KERNELS") == "1":
            pytest.skip("no compiled kernels here, as the environment says")
        pytest.fail("no compiled kernels here; install a C++ compiler, or set CALOFORGE_TESTS_WITHOUT_KERNELS=1")
    return library
