"""Rollouts: a revision's way to all of the traffic, and back."""
