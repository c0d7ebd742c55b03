"""What a turn shows of itself: one module per kind of evidence, each a pure function of text."""
