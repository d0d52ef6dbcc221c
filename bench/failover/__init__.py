"""What do restarts, switchovers and crashes of the database cost clients? `python -m bench.failover`."""
