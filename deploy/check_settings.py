"""What a replica would say of its variables before it starts: a line for each fault, and exit code 2.

deploy/set runs it in the image, with the variables of a replica; the arguments are names that it must know.
"""

import sys
from difflib import get_close_matches

from lifeguard.database.connect_options import check
from lifeguard.settings import SettingsError

from app.settings import Settings

KNOWN = sorted(name.upper() for name in Settings.model_fields)


def unknown(name: str) -> str:
    close = get_close_matches(name, KNOWN, n=1)
    return f"{name}: not a variable of this service{f'; {close[0]} is' if close else ''}"


faults = [unknown(name) for name in sys.argv[1:] if name not in KNOWN and not name.startswith("OTEL_")]
if not faults:
    try:
        check(Settings.load())
    except SettingsError as error:
        faults = [str(error)]
if faults:
    print(*faults, sep="\n", file=sys.stderr)
    sys.exit(2)
