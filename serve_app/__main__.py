"""`python -m serve_app` is `gatehouse`."""

from serve_app.cli.main import run

run()
