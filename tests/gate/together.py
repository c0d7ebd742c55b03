"""Many lines at once: read by few processes of the parser, then classified one by one."""

import os
from collections.abc import Iterator, Sequence

from deployments.gate.classify import Classification, Classifier
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import MAX_REMEMBERED, ShellReader
from deployments.ports import GateProfile

# Set to 1, the tests of the gate's engine take everything they can make, not a sample: minutes in place of seconds.
WHOLE = os.environ.get("GATEHOUSE_GATE_WHOLE") == "1"
_PART = MAX_REMEMBERED // 2


def classify_each(
    bundle: Bundle, lines: Sequence[str], profile: GateProfile = GateProfile.OPS
) -> Iterator[Classification]:
    """The classification of every line as a shell command, in order."""
    # A busy machine must not turn a slow parser into a test that passes for the wrong reason.
    reader = ShellReader(timeout_s=20.0)
    classifier = Classifier(bundle, reader)
    for start in range(0, len(lines), _PART):
        part = lines[start : start + _PART]
        reader.learn(part)
        for line in part:
            yield classifier.classify("shell", {"command": line}, profile)
