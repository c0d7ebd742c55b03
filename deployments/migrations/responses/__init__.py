"""Revisions of the tables of responses, oldest first."""
