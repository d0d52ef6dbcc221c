"""The embedded server, and `make run`. A production process never imports this."""
