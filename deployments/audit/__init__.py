"""The audit sink: an append-only log that cannot be edited quietly."""
