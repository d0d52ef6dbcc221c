"""`python -m deploy.profiles`: write the sizes of the profiles and of docs/choosing.md anew.

With --check it writes nothing, and the exit code is 1 when one of them is stale.
"""

import sys

from deploy.profiles import GUIDE, PROFILES, guide, stale, with_sizes

if "--check" in sys.argv[1:]:
    if found := stale():
        sys.exit(f"stale: {', '.join(path.name for path in found)}")
else:
    for profile in PROFILES:
        profile.write_text(with_sizes(profile), encoding="utf-8")
    GUIDE.write_text(guide(), encoding="utf-8")
