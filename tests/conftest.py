"""What every test may rely on."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background makes them deaf to Ctrl-C, which many of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
