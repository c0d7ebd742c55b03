"""Keys, grants and usage."""
