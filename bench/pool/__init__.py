"""What does borrowing cost? `python -m bench.pool` measures it beside the peers."""
