"""Drills of the runbook's incidents: what is described there, done to a running system on purpose."""
