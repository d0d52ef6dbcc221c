"""What a production process never imports: an embedded server, and `make run` on it."""
