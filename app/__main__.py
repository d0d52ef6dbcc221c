"""`python -m app`: the command line, in `app.commands`."""

import signal

# Importing the service takes a moment. Ctrl-C in it ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from app.commands import cli  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(prog_name="python -m app")
