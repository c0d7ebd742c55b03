"""Where it runs: one folder per Serve deployment, its pure rules beside its Serve class."""
