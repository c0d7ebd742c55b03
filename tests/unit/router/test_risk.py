import pytest

from router.features import read
from router.signals.risk import called_risk, needs_reasoning, offered_risk, said_risk
from router.types import Risk, TaskType
from tests.unit.router.asks import assistant, tool, user


def risk_of(text: str) -> Risk:
    passage = read(text)
    return said_risk(passage.lowered, passage.vocabulary)


@pytest.mark.parametrize(
    ("text", "risk"),
    [
        ("Delete the staging namespace", Risk.R2),
        ("Please drop the users table in production", Risk.R3),
        ("Clean up: then delete all pods", Risk.R3),
        ("Restart the web deployment", Risk.R1),
        ("Restart the web deployment in production", Risk.R2),
        ("kubectl delete namespace staging", Risk.R3),
        ("Look at it and run `terraform destroy`", Risk.R3),
        ("kubectl rollout restart deploy/web", Risk.R2),
        ("Change ticket, risk: R3. Swap the certificate.", Risk.R3),
        ("How do I delete a namespace?", Risk.R0),
        ("Explain what DROP TABLE does", Risk.R0),
        ("Write a script that deletes old backups", Risk.R0),
        ("Show me the pods", Risk.R0),
        ("", Risk.R0),
    ],
)
def test_what_the_words_order(text: str, risk: Risk):
    assert risk_of(text) is risk


def test_the_newest_calls_count_until_the_user_speaks():
    call = assistant("", ("shell", '{"command": "kubectl delete ns staging"}'))
    assert called_risk([user("clean up"), call]) is Risk.R3
    assert called_risk([user("clean up"), call, tool("ok")]) is Risk.R3
    assert called_risk([user("clean up"), call, tool("ok"), user("and now?")]) is Risk.R0
    assert called_risk([user("x"), assistant("", ("shell", "kubectl apply -f x"))]) is Risk.R2
    assert called_risk([user("x"), assistant("", ("shell", "kubectl get pods"))]) is Risk.R0


@pytest.mark.parametrize(
    ("text", "risk", "needed"),
    [
        ("Delete the staging namespace", Risk.R2, False),
        ("Delete the staging namespace", Risk.R3, True),
        ("Delete the staging namespace", Risk.FORBIDDEN, True),
        ("Decide which namespace can go, compare their usage, and delete it", Risk.R2, True),
        ("Delete the staging namespace, then restore it from the backup", Risk.R2, True),
        ("", Risk.R2, True),
        ("Delete x. " * 40, Risk.R2, True),
    ],
)
def test_reasoning_is_needed_unless_something_says_no(text: str, risk: Risk, needed: bool):
    assert needs_reasoning(read(text), TaskType.GENERAL, risk) is needed


def test_a_diagnosis_always_needs_reasoning():
    assert needs_reasoning(read("Restart it"), TaskType.INCIDENT_DIAGNOSIS, Risk.R2)


@pytest.mark.parametrize(
    ("names", "said", "untrusted", "risk"),
    [
        (["shell", "read_file", "delete_file"], "delete the file", True, Risk.R0),
        (["restart_service"], "hello", True, Risk.R1),
        (["delete_namespace"], "hello", False, Risk.R1),
        (["delete_namespace"], "remove the old one", False, Risk.R2),
        (["delete_namespace"], "hello", True, Risk.R2),
        (["mcp__kubernetes__pods_delete"], "hello", True, Risk.R2),
        (["terminateInstances"], "hello", True, Risk.R2),
        (["refund_order"], "hello", True, Risk.R2),
        (["list_databases", "get_secret"], "delete", True, Risk.R0),
        (["x" * 10_000], "delete", True, Risk.R0),
        ([], "delete the database", True, Risk.R0),
    ],
)
def test_what_the_tools_on_offer_amount_to(names: list[str], said: str, untrusted: bool, risk: Risk):
    assert offered_risk(names, read(said).vocabulary, untrusted) is risk
