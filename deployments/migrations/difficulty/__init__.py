"""Revisions of the tables of difficulty, oldest first."""
