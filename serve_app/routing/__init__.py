"""Offline side of the difficulty router: label sets, training, evaluation. Nothing here is imported when serving."""
