"""`python -m app`: the command line, in `app.commands`. `serve` alone starts without it, and sooner."""

import gc
import signal
import sys
from functools import partial

# Importing the service takes a moment. Ctrl-C in it ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
# What is imported stays: to look for garbage in it again and again takes time.
gc.disable()

if sys.argv[1:] == ["serve"]:
    from lifeguard.service.serving import serve

    from app.main import create_app
    from app.settings import Settings

    main = partial(serve, create_app, Settings)
else:
    from app.commands import cli

    main = partial(cli, prog_name="python -m app")
gc.freeze()
gc.enable()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
