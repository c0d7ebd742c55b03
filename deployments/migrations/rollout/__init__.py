"""Revisions of the tables of rollout, oldest first."""
