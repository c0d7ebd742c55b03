"""Is this answer good? Deterministic checks of an answer against what was asked; no model, no text run as code."""
