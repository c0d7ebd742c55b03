"""From the text of a shell command to what it would run."""
