"""What the fork server imports before there is any service: the modules that the supervisor names."""

import os
from contextlib import suppress
from importlib import import_module

VARIABLE = "LIFEGUARD_PRELOAD"
"""Names of modules, separated by spaces; set for the start of the fork server alone."""

for _name in os.environ.pop(VARIABLE, "").split():
    with suppress(Exception):  # then the service tries it itself, and its error is shown
        import_module(_name)
