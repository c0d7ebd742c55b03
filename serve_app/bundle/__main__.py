"""`python -m serve_app.bundle`: the group alone, for a machine on which only its first few wheels are installed."""

from serve_app.cli.bundle import app

app()
