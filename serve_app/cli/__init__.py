"""The gatehouse command."""
