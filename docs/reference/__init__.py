"""The references that are written from code."""
