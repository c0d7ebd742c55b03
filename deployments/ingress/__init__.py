"""The path of a request; start with journey.py."""
