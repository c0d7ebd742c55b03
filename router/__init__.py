"""How hard is this turn, and what does it deserve. Pure: no ray, HTTP, clock, randomness, environment."""
