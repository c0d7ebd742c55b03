"""Revisions of the tables of tenancy, oldest first."""
