"""The policy gate: canonicalise, classify, decide, hold, approve."""
