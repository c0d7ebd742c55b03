"""Copies of everything that a restore needs, and restores that prove themselves. See docs/backup.md."""
