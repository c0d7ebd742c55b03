"""Serve wrapper and session memory around the pure router."""
