"""Load, comparison and endurance: how Gatehouse is measured."""
