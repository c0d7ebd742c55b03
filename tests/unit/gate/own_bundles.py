"""Bundles of a forker's own, for tests: the shipped one, and what a text adds to it."""

import tempfile
from functools import lru_cache
from pathlib import Path

from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.shell.reader import ShellReader


@lru_cache(maxsize=8)  # reading the shipped bundle takes a second
def own_bundle(text: str) -> Bundle:
    """The bundle that extends the shipped one by the YAML `text`."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mine.yaml"
        path.write_text(f"version: 1\nname: mine\nextends: default\n{text}", encoding="utf-8")
        return read_policy(path)


def own_classifier(text: str) -> Classifier:
    """A classifier of that bundle."""
    return Classifier(own_bundle(text), ShellReader(timeout_s=20.0))
