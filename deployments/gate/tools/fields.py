"""Tools whose arguments are plain fields; SQL on a registered database; and code, which nothing is known of."""

from deployments.gate import sql
from deployments.gate.grammar import ClassOf, class_of
from deployments.gate.judge import Finding, Judge
from deployments.gate.tables import Base, Egress, Env, Sensitivity
from deployments.gate.tool_specs import CodeTool, FieldsTool, SqlTool
from deployments.gate.tools import preview
from deployments.gate.tools.arguments import (
    Misfit,
    Reading,
    Values,
    Words,
    check_known,
    fault,
    one_text,
    option_findings,
    read_fields,
    read_nested,
)
from deployments.gate.tools.http import judge_url

_ASKS = ClassOf(Base.R0, Base.R0)


def read_fields_call(judge: Judge, spec: FieldsTool, values: Values) -> Reading:
    """A call whose class is that of its tool, and of what its fields name."""
    check_known(values, (*spec.fields, *spec.nested, *spec.options, *spec.raises))
    if spec.one_of and sum(name in values for name in spec.one_of) != 1:
        raise Misfit("the call does not have exactly one of the arguments that say what it is about")
    addresses = {name for name, role in spec.fields.items() if role.removesuffix("*") in {"web", "url"}}
    words = Words(judge)
    read_fields({name: value for name, value in values.items() if name not in addresses}, spec.fields, words)
    read_nested(values, spec.nested, words)
    findings = [judge.fields(words.judged, class_of(spec.class_), spec.reason, spec.standing)]
    for name in sorted(addresses & values.keys()):
        value = values[name]
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, str):
                raise Misfit("an address is not text")
            findings += judge_url(judge, each, _ASKS, "asks over the network; where a redirect would lead is not known")
    for text in words.commands:
        findings += judge.script(text)
    if spec.egress != "none":
        findings.append(_told(judge, Base.R0, Env.NONPROD, Sensitivity.NORMAL, Egress(spec.egress), spec.reason))
    return Reading((*findings, *option_findings(judge, spec, values)))


def read_sql(judge: Judge, spec: SqlTool, values: Values) -> Reading:
    """Statements in the dialect of the one database that the tool is registered with."""
    check_known(values, (*spec.query, *spec.parameters, *spec.options, *spec.raises))
    text = one_text(values, spec.query, "statement")
    base, note = sql.judge(spec.dialect, text)
    found = _told(
        judge,
        base,
        Env(spec.environment),
        Sensitivity.SENSITIVE if spec.sensitive else Sensitivity.NORMAL,
        Egress.NONE,
        f"{spec.reason}{f': {note}' if note else ''}",
    )
    findings = (found, *option_findings(judge, spec, values))
    return Reading(findings, preview.of_text("statements", text))


def read_code(judge: Judge, spec: CodeTool, values: Values) -> Reading:
    """Code for an interpreter, a browser or a screen."""
    check_known(values, (*spec.code, *spec.options, *spec.raises))
    texts = [text for name in spec.code if isinstance(text := values.get(name), str)]
    code = "\n".join(texts)
    opaque = judge.opaque(code, spec.reason)
    finding = Finding(opaque.risk, False, "tool.code", opaque.reasons, "")
    shown = preview.of_text("runs", code) if code else None
    return Reading((finding, *option_findings(judge, spec, values)), shown)


def _told(judge: Judge, base: Base, env: Env, sensitivity: Sensitivity, egress: Egress, reason: str) -> Finding:
    """A finding by table A alone, for what the bundle says of a tool rather than of one of its words."""
    risk = judge.bundle.table_a[base, env, sensitivity, egress]
    return fault("tool", reason, risk)
