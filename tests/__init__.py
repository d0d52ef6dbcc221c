"""The proof: every behaviour against real PostgreSQL servers that the suite starts itself."""
