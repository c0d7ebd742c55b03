import pytest

from router.features import read
from router.signals.language import language_of
from router.signals.review import has_diff
from router.signals.task import classify
from router.types import TaskType
from tests.unit.router.asks import INCIDENT, diff

LOGS = "\n".join(f"2024-05-01 12:00:{n:02d} ERROR upstream timeout to postgres" for n in range(6))


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (INCIDENT, TaskType.INCIDENT_DIAGNOSIS),
        (f"What happened here?\n{LOGS}", TaskType.INCIDENT_DIAGNOSIS),
        ("Sev1: p99 latency of the gateway spiked at 09:15. Diagnose it.", TaskType.INCIDENT_DIAGNOSIS),
        ("生产环境的服务出现故障,请排查 kubernetes 集群的根本原因", TaskType.INCIDENT_DIAGNOSIS),
        ("Design an alerting system for incidents in our cluster", TaskType.GENERAL),
        (f"Review this\n{diff()}", TaskType.CODE_REVIEW),
        (diff(), TaskType.CODE_REVIEW),
        ("Please do a code review of this function", TaskType.CODE_REVIEW),
        (f"Fix the failing hunk and write the code\n{diff()}", TaskType.CODE_GENERATION),
        ("Write a Python function that reverses a list", TaskType.CODE_GENERATION),
        ("Implement a REST API endpoint in Go", TaskType.CODE_GENERATION),
        ("Prove that the square root of 2 is irrational", TaskType.MATHEMATICS),
        ("Solve the equation 3x + 4 = 19", TaskType.MATHEMATICS),
        ("Tom has 12 apples and eats 5. How many are left?", TaskType.MATHEMATICS),
        ("Extract all dates from this letter: we met on 3 May.", TaskType.EXTRACTION),
        ("Summarize the following text in one sentence: it rained.", TaskType.EXTRACTION),
        ("Hello there, how are you?", TaskType.CHAT),
        ("谢谢", TaskType.CHAT),
        ("What is the capital of France?", TaskType.GENERAL),
        ("", TaskType.GENERAL),
    ],
)
def test_tasks(text: str, task: TaskType):
    assert classify(read(text), has_diff(text)) is task


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How does a load balancer work?", "en"),
        ("Wie funktioniert ein Lastverteiler und was ist das?", "de"),
        ("Comment est-ce que le serveur marche dans ce cas ?", "fr"),
        ("¿Por qué no funciona el servidor en la nube?", "es"),
        ("Por que o servidor não está funcionando em produção?", "pt"),
        ("Почему сервер не работает?", "ru"),
        ("为什么服务器不工作", "zh"),
        ("なぜサーバーが動かないのですか", "ja"),
        ("서버가 왜 작동하지 않나요", "ko"),
        ("सर्वर काम क्यों नहीं कर रहा है", "hi"),
        ("xyzzy", "other"),
        ("", "other"),
        ("Why does naïve Bayes work? — “Because” of it", "en"),
        ("Fix 'é' in the name: café is not the same as cafe", "en"),
    ],
)
def test_languages(text: str, language: str):
    passage = read(text)
    assert language_of(passage.lowered, passage.words) == language
