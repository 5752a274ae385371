"""Worker processes: a crash-tolerant pool, and an isolated decoder with resource limits."""
