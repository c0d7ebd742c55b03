import pytest

from deployments.gate.bundle import load_bundle
from deployments.gate.classify import Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="session")
def classifier(bundle: Bundle) -> Classifier:
    # A busy machine must not turn a slow parser into a test that passes for the wrong reason.
    return Classifier(bundle, ShellReader(timeout_s=20.0))
