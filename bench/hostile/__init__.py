"""What do users get while 64 connections attack the service? `python -m bench.hostile`."""
