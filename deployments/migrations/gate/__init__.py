"""Revisions of the tables of gate, oldest first."""
