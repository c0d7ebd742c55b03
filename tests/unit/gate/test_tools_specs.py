"""What a bundle may say of tools and of circumstances, and what the loader refuses."""

import json
from dataclasses import replace

import pytest
import yaml
from pydantic import ValidationError

from deployments.gate.bundle import check_examples
from deployments.gate.circumstances import Circumstances, raise_faults, raised
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle
from deployments.gate.shell.reader import ShellReader
from deployments.gate.specs import Part
from deployments.gate.tool_specs import faults
from deployments.gate.tools.schema import schema_digest
from deployments.ports import GateProfile, JsonValue, Risk
from tests.unit.gate.own_bundles import own_bundle, own_classifier

SCHEMA: dict[str, JsonValue] = {"type": "object", "properties": {"repo": {"type": "string"}}, "required": ["repo"]}


ROLES = frozenset({"sql-postgres", "namespace"})


def refusals(bundle: Bundle, text: str) -> list[str]:
    """What the loader says of a part of a bundle that is added to the shipped one."""
    try:
        part = Part.model_validate_json(json.dumps(yaml.safe_load(text)))
    except ValidationError as error:
        return [str(error)]
    return faults(part.tools, ROLES) + raise_faults((*bundle.raises, *part.raises))


def tool(text: str, example: str = "{arguments: {}, risk: R2}") -> str:
    return f"tools:\n  - {{{text}, examples: [{example}]}}\n"


FIELDS = "adapter: fields, names: [x], class: R0, reason: says what it does"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (tool(f"{FIELDS}, fields: {{a: nonsense}}"), "no role 'nonsense'"),
        (tool(f"{FIELDS}, nested: {{a: {{b: nonsense}}}}"), "no role 'nonsense'"),
        (tool(f"{FIELDS}, options: {{a: nonsense*}}"), "no role 'nonsense'"),
        (tool(f"{FIELDS}, fields: {{a: text}}, options: {{a: text}}"), "'a' is given twice"),
        (tool(f"{FIELDS}, one_of: [a]"), "'a' is not among its fields"),
        (tool(f"{FIELDS}, raises: {{a: {{class: R0, reason: none}}}}"), "'a' raises nothing"),
        (tool(FIELDS, "{tool: y, arguments: {}, risk: R0}"), "'y', which is not its name"),
        (tool(f"{FIELDS}, surprise: 1"), "surprise"),
        (tool(f"{FIELDS}, schema: [abc]"), "schema"),
        (tool("adapter: fields, names: [x, x], class: R0, reason: says what it does"), "registered twice"),
        (tool("adapter: mcp, names: [x], class: R0, reason: says what it does"), "needs its server"),
        (tool("adapter: mcp, names: [x], server: s, class: R0, reason: says what it does"), "digest of its schema"),
        (tool("adapter: edit, names: [x], path: [p], class: R0, reason: says what it does"), "at least R1"),
        (tool("adapter: patch, names: [x], patch: [p], class: R0, reason: says what it does"), "at least R1"),
        (tool("adapter: input, names: [x], input: [p], class: R0, reason: says what it does"), "at least R1"),
        (tool("adapter: kubernetes, names: [x], object: [p], class: R1, reason: says what it does"), "at least R2"),
        (tool("adapter: edit, names: [x], path: [p], verb: v, class: R2, reason: says what it does"), "do not fit"),
        (
            tool("adapter: http, names: [x], url: [u], routes: [{methods: [PUT], paths: [/], class: R1, reason: one}]"),
            "at least R2",
        ),
        ("raises:\n  - {id: a.b, when: {untrusted: true}, to: {R2: R1}, reason: none}\n", "not higher"),
        ("raises:\n  - {id: a.b, when: {untrusted: true}, to: {R2: R2}, reason: none}\n", "not higher"),
        ("raises:\n  - {id: a.b, when: {untrusted: true}, to: {R1: R3}, reason: none}\n", "above one that was higher"),
        ("raises:\n  - {id: a.b, when: {untrusted: true}, to: {R0: R2}, reason: none}\n", "above one that was higher"),
        ("raises:\n  - {id: a.b, when: {}, to: {R1: R2}, reason: none}\n", "no circumstance"),
        ("raises:\n  - {id: call.recovered, when: {untrusted: true}, to: {R1: R2}, reason: none}\n", "given twice"),
        ("raises:\n  - {id: a.b, when: {untrusted: false}, to: {R1: R2}, reason: none}\n", "untrusted"),
        ("raises:\n  - {id: a.b, when: {moon: full}, to: {R1: R2}, reason: none}\n", "moon"),
    ],
)  # fmt: skip
def test_what_the_loader_refuses(bundle: Bundle, text: str, why: str) -> None:
    assert why in "; ".join(refusals(bundle, text))


def test_the_loader_asks_for_these_faults() -> None:
    with pytest.raises(BundleError, match="no role 'nonsense'"):
        own_bundle(tool(f"{FIELDS}, fields: {{a: nonsense}}"))
    with pytest.raises(BundleError, match="not higher"):
        own_bundle("raises:\n  - {id: a.b, when: {untrusted: true}, to: {R2: R1}, reason: none}\n")
    with pytest.raises(BundleError, match="registered by the base"):
        own_bundle(tool("adapter: fields, names: [Bash], class: R0, reason: says what it does"))


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ("{arguments: {}, risk: R1}", "should be R1, it is R0"),
        ("{arguments: {}, risk: R0, covered: true}", "should be covered"),
        ("{arguments: {b: 1}, risk: R0}", "should be R0, it is R2"),
    ],
)
def test_examples_run_at_load(bundle: Bundle, example: str, why: str) -> None:
    part = Part.model_validate_json(json.dumps(yaml.safe_load(tool(FIELDS, example))))
    with pytest.raises(BundleError, match=why):
        check_examples(replace(bundle, own_rules=(), own_tools=part.tools, tools={"x": part.tools[0]}))


@pytest.mark.parametrize("profile", list(GateProfile))
@pytest.mark.parametrize("covered", [False, True])
def test_no_bundle_can_leave_out_the_floor_for_repaired_calls(profile: GateProfile, covered: bool) -> None:
    for risk in Risk:
        found = raised((), Circumstances(recovered=True), "x", profile, risk, covered)
        assert found.risk is risk.at_least(Risk.R2)
        assert bool(found.reasons) == (found.risk is not risk)


def test_every_shipped_tool_has_examples(bundle: Bundle) -> None:
    assert [tool.names for tool in bundle.own_tools if not tool.examples] == []


RAISES = """raises:
  - {id: tenant.payments, when: {tenant: ["pay-*"]}, to: {R1: R2, R2: R3}, reason: this tenant holds money}
  - {id: agent.unknown, when: {agent: ["*beta*"], profile: [coding]}, to: {R0: R1}, keeps_standing: true, reason: beta}
  - {id: tool.shell, when: {tool: [Bash], untrusted: true}, to: {R0: R2, R1: R2}, reason: outside text}
"""


def test_tenants_agents_and_tools_raise_where_a_bundle_says_so() -> None:
    classifier = own_classifier(RAISES)

    def risk(line: str, tool: str = "bash", profile: GateProfile = GateProfile.CODING, **how: str | bool) -> Risk:
        situation = Circumstances(**how)  # type: ignore[arg-type]
        return classifier.classify(tool, {"command": line}, profile, situation).risk

    assert risk("ls") is Risk.R0
    assert risk("ls", tenant="pay-eu") is Risk.R0
    assert risk("pytest -q") is Risk.R1
    assert risk("pytest -q", tenant="pay-eu") is Risk.R2
    assert risk("pytest -q", tenant="play-eu") is Risk.R1
    assert risk("rm x", profile=GateProfile.OPS, tenant="pay-eu") is Risk.R3
    assert risk("ls", agent="codex-beta/1") is Risk.R1
    assert risk("ls", agent="codex-beta/1", profile=GateProfile.OPS) is Risk.R0
    assert risk("ls", tool="Bash", untrusted=True) is Risk.R2
    assert risk("ls", tool="Bash") is Risk.R0
    assert risk("ls", untrusted=True) is Risk.R0


@pytest.mark.parametrize("risk", list(Risk))
@pytest.mark.parametrize("covered", [False, True])
def test_no_raise_lowers(bundle: Bundle, risk: Risk, covered: bool) -> None:
    for situation in (Circumstances(), Circumstances(recovered=True), Circumstances(untrusted=True)):
        for profile in GateProfile:
            found = raised(bundle.raises, situation, "x", profile, risk, covered)
            assert found.risk.rank >= risk.rank
            assert bool(found.reasons) == (found.risk is not risk)


SERVER = f"""tools:
  - adapter: mcp
    server: github
    names: [list_issues]
    schema: ["{schema_digest(SCHEMA)}"]
    fields: {{repo: text}}
    nested: {{page: {{number: number, path: file}}}}
    class: R0
    reason: lists issues
    examples:
      - {{arguments: {{repo: a}}, risk: R0}}
"""


def test_a_tool_of_a_server_is_what_was_registered_or_unknown() -> None:
    loaded = own_bundle(SERVER)
    check_examples(loaded)
    classifier = own_classifier(SERVER)
    registered = Circumstances(schema=schema_digest(SCHEMA))
    names = ("mcp__github__list_issues", "github__list_issues", "github_list_issues", "github.list_issues")
    for name in names:
        assert classifier.classify(name, {"repo": "a"}, circumstances=registered).risk is Risk.R0
        changed = schema_digest({**SCHEMA, "readOnlyHint": True})
        for other in (None, changed, "", schema_digest(SCHEMA).upper()):
            found = classifier.classify(name, {"repo": "a"}, circumstances=Circumstances(schema=other))
            assert (found.risk, found.outcome) == (Risk.R2, "hold")
            assert found.rules == ("tool.schema",)
    for name in ("list_issues", "mcp__gitlab__list_issues", "mcp__github__list_issue", "MCP__github__list_issues"):
        assert classifier.classify(name, {"repo": "a"}, circumstances=registered).rules == ("tool.unknown",)


@pytest.mark.parametrize(
    ("page", "risk"),
    [
        ({"number": 1}, Risk.R0),
        ('{"number": 1}', Risk.R0),
        ('{"number": 1, "number": 2}', Risk.R2),
        ('{"number": 1} x', Risk.R2),
        ('{"number": NaN}', Risk.R2),
        ('{"other": 1}', Risk.R2),
        ({"other": 1}, Risk.R2),
        ("[]", Risk.R2),
        ("1", Risk.R2),
        ("", Risk.R2),
        ([], Risk.R2),
        (1, Risk.R2),
        ({"path": "src/a.py"}, Risk.R0),
        ('{"path": "/etc/shadow"}', Risk.R1),
    ],
)
def test_json_in_an_argument_obeys_the_same_rules(page: JsonValue, risk: Risk) -> None:
    classifier = own_classifier(SERVER)
    situation = Circumstances(schema=schema_digest(SCHEMA))
    found = classifier.classify("github_list_issues", {"repo": "a", "page": page}, circumstances=situation)
    assert found.risk is risk, found.reasons


def test_the_digest_of_a_schema_is_of_its_canonical_form() -> None:
    assert schema_digest({"b": 1, "a": 2.0}) == schema_digest({"a": 2, "b": 1})
    assert schema_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert schema_digest({"a": "\u00e9"}) != schema_digest({"a": "e\u0301"})


SQL = """tools:
  - adapter: sql
    names: [query_shop]
    query: [sql]
    parameters: [params]
    dialect: sql-postgres
    environment: nonprod
    sensitive: false
    reason: asks the shop's replica
    examples:
      - {arguments: {sql: select 1}, risk: R0}
  - adapter: sql
    names: [query_people]
    query: [sql]
    dialect: sql-mysql
    reason: asks the database of customers
    examples:
      - {arguments: {sql: select 1}, risk: R1}
"""


@pytest.mark.parametrize(
    ("statement", "risk"),
    [
        ("select id from orders where total > 5", Risk.R0),
        ("select passwd from pg_shadow", Risk.R1),
        ("delete from orders", Risk.R3),
        ("update orders set x = 1 where id = 2", Risk.R2),
        ("with d as (delete from orders returning *) select * from d", Risk.R3),
        ("select * into b from a", Risk.R2),
        ("select pg_terminate_backend(1)", Risk.R2),
        ("explain analyze delete from orders", Risk.R3),
        ("select 1; drop table orders", Risk.R3),
        ("\\! rm -rf /", Risk.R3),
        ("", Risk.R2),
    ],
)
def test_sql_on_a_registered_database(statement: str, risk: Risk) -> None:
    classifier = own_classifier(SQL)
    found = classifier.classify("query_shop", {"sql": statement, "params": [1, "x"]})
    assert found.risk.rank >= risk.rank if risk is not Risk.R0 else found.risk is Risk.R0, found.reasons
    # Production, and sensitive: what is not said of a database is taken to be the worse.
    people = classifier.classify("query_people", {"sql": statement})
    assert people.risk.rank >= max(found.risk.rank, Risk.R1.rank)
    assert classifier.classify("query_shop", {"sql": statement, "database": "other"}).risk.rank >= Risk.R2.rank


PRODUCTION = "targets:\n  runner:\n    - {match: ['@default'], env: prod}\n"


def test_code_is_opaque_and_worse_in_production(bundle: Bundle) -> None:
    reader = ShellReader(timeout_s=20.0)
    for name in ("python", "REPL", "computer", "browser_action", "Workflow"):
        key = {"computer": "action", "browser_action": "action", "Workflow": "script"}.get(name, "code")
        assert Classifier(bundle, reader).classify(name, {key: "1 + 1"}, GateProfile.CODING).risk is Risk.R2
        assert own_classifier(PRODUCTION).classify(name, {key: "1 + 1"}).risk is Risk.R3
    found = Classifier(bundle, reader).classify("python", {"code": "print('\u202e')"})
    assert found.preview == "runs\n  print('\\u202e')"
