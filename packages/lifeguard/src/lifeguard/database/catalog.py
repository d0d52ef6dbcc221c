"""Questions to the catalog that several ask."""

# Those of partitioned tables (I) are valid once each partition has one; what is being built will be.
INVALID_INDEXES = """
SELECT format('%I.%I', nspname, relname) AS name
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE NOT indisvalid AND relkind = 'i'
  AND indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index WHERE index_relid IS NOT NULL)
ORDER BY name
"""
