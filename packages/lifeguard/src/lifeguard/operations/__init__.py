"""What operators ask: probes, metrics, pool pages, documentation, the doctor."""
