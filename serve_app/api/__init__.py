"""FastAPI routers per resource, and the one table from error to status and body."""
