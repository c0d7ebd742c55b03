"""The examples of a bundle's tools, run at load like those of its rules."""

from deployments.gate.circumstances import Circumstances
from deployments.gate.classify import Classifier
from deployments.gate.tool_specs import ToolSpec
from deployments.ports import GateProfile, JsonValue


def tool_example_faults(classifier: Classifier, tool: ToolSpec) -> list[str]:
    """The examples of `tool` that do not come out as they should; empty when all do."""
    faults: list[str] = []
    for number, example in enumerate(tool.examples, start=1):
        name = example.tool or tool.registered[0]
        # As the client of a registered schema calls it: what another schema makes of a call is not its example.
        circumstances = Circumstances(schema=tool.schema_[0] if tool.schema_ else None)
        arguments: dict[str, JsonValue] = dict(example.arguments)
        found = classifier.classify(name, arguments, GateProfile.OPS, circumstances)
        where = f"tool {name}, example {number}"
        if "classifier.error" in found.rules:
            faults.append(f"{where} cannot be classified")
        elif found.risk.value != example.risk:
            faults.append(
                f"{where} should be {example.risk}, it is {found.risk.value} ({'; '.join(found.reasons[:2])})"
            )
        covered = classifier.classify(name, arguments, GateProfile.CODING, circumstances).covered
        if covered != example.covered:
            faults.append(f"{where} should {'' if example.covered else 'not '}be covered by the standing plan")
    return faults
