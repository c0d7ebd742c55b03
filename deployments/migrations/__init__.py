"""Migrations of the state store: one chain of revisions per feature, and what runs them."""
