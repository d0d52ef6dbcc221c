"""What the fork server imports before there is any service: the modules that the supervisor names."""

import os
import signal
from contextlib import suppress
from importlib import import_module

VARIABLE = "LIFEGUARD_PRELOAD"
"""Names of modules, separated by spaces; set for the start of the fork server alone."""

# Ctrl-C is for the supervisor, which ends this process. What is forked from it has the handler of before.
_before = signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    for _name in os.environ.pop(VARIABLE, "").split():
        with suppress(Exception):  # then the service tries it itself, and its error is shown
            import_module(_name)
finally:
    signal.signal(signal.SIGINT, _before)
