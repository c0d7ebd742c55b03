"""The words of the demonstration models: requests, answers and commands, and the filler put around them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DemoName = Literal["demo-20b", "demo-120b"]
Effort = Literal["low", "medium", "high"]
Category = Literal[
    "talk",
    "identity",
    "help",
    "fact",
    "count",
    "sum",
    "product",
    "read",
    "change",
    "danger",
    "no_tool",
    "after_tool",
    "denied",
    "review",
    "incident",
    "risk",
    "unknown",
]

DEMO_MODELS: tuple[DemoName, ...] = ("demo-20b", "demo-120b")


@dataclass(frozen=True, slots=True)
class Topic:
    """Phrasings that share one reply; `{app}` and `{space}` are copied from request to command."""

    category: Category
    thought: str
    requests: tuple[str, ...]
    answer: str = ""
    command: str = ""


APPS = ("web", "checkout")
SPACES = ("staging", "production")

AFTER_TOOL = "The command has run. Its output is above."
NO_TOOL = "I cannot run commands here: this request offers no shell tool."
DENIED = "The command was not allowed, so nothing has changed."

# What the analysis adds at medium and at high effort.

TALK = (
    Topic(
        "talk",
        "Greeting: say hello.",
        ("hi", "hello", "hey", "hello there", "good morning", "hi there", "good evening"),
        "Hello! I am {model}, a tiny demonstration model. Ask for help to see what I know.",
    ),
    Topic("talk", "Thanks: accept them.", ("thanks", "thank you", "many thanks", "thanks a lot"), "You are welcome."),
    Topic("talk", "Bye: say it back.", ("bye", "goodbye", "see you", "good night"), "Goodbye."),
    Topic(
        "identity",
        "Identity: name myself.",
        (
            "who are you",
            "what are you",
            "what is your name",
            "which model are you",
            "what model is this",
            "introduce yourself",
            "what model are you",
        ),
        "I am the Gatehouse demonstration model {model}, a tiny model for demonstration. "
        "I am not gpt-oss and know only a few things.",
    ),
    Topic(
        "fact",
        "Gate: explain Gatehouse.",
        ("what is gatehouse", "tell me about gatehouse", "explain gatehouse"),
        "Gatehouse serves language models on your own machines. It routes each request, holds "
        "dangerous tool calls for approval and keeps an audit log.",
    ),
    Topic(
        "fact",
        "France: name its capital.",
        ("what is the capital of France", "capital of France", "name the capital of France"),
        "Paris is the capital of France.",
    ),
)

HELP: Mapping[DemoName, str] = {
    "demo-20b": "I can greet you, count to one hundred, add small numbers, and, when a shell tool is "
    "offered, show pods, logs and changes, restart or delete things. I also give a first guess at an "
    "incident and a short review.",
    "demo-120b": "I can greet you, count to one hundred, add small numbers, multiply up to 9 times 9, "
    "and, when a shell tool is offered, show pods, logs and changes, restart or delete things. I also "
    "diagnose an incident in steps and review a diff.",
}
HELP_REQUESTS = ("help", "what can you do", "what do you know", "show me what you can do", "help me")

COMMANDS = (
    Topic(
        "read",
        "Pods: list them.",
        (
            "show the pods",
            "list the pods",
            "list all pods",
            "show me the pods",
            "get the pods",
            "which pods are running",
            "show me the running pods",
            "are the pods running",
            "what pods are there",
            "check the pods",
            "list pods",
        ),
        command="kubectl get pods",
    ),
    Topic(
        "read",
        "Status: see what changed.",
        (
            "what changed",
            "what has changed",
            "git status",
            "show the git status",
            "run git status",
            "which files changed",
            "what changed in the repository",
            "what did I change",
            "show me what changed",
        ),
        command="git status",
    ),
    Topic(
        "read",
        "Disk: check the free space.",
        (
            "how much disk space is left",
            "check the disk space",
            "show the disk space",
            "disk space",
            "is the disk full",
            "show disk usage",
            "how full is the disk",
        ),
        command="df -h",
    ),
    Topic(
        "read",
        "Logs: read those of {app}.",
        (
            "show the logs of the {app} deployment",
            "show me the logs of the {app} deployment",
            "show the {app} logs",
            "get the logs of the {app} deployment",
            "tail the {app} logs",
            "read the logs of {app}",
            "what do the {app} logs say",
        ),
        command="kubectl logs deployment/{app} --tail=50",
    ),
    Topic(
        "change",
        "Restart: roll {app}.",
        (
            "restart the {app} deployment",
            "restart {app}",
            "restart the {app} service",
            "restart deployment {app}",
            "do a rolling restart of {app}",
            "the {app} deployment hangs, restart it",
        ),
        command="kubectl rollout restart deployment/{app}",
    ),
    Topic(
        "change",
        "Commit: save the work.",
        (
            "commit my work",
            "commit my changes",
            "commit the changes",
            "commit this",
            "git commit",
            "commit everything",
            "save my work in git",
        ),
        command="git commit -am 'Save my work'",
    ),
    Topic(
        "danger",
        "Namespace: delete {space}.",
        (
            "delete the {space} namespace",
            "delete namespace {space}",
            "remove the {space} namespace",
            "delete the namespace {space}",
            "get rid of the {space} namespace",
            "we no longer need the {space} namespace, delete it",
            "clean up the {space} namespace, delete it",
        ),
        command="kubectl delete namespace {space}",
    ),
    Topic(
        "danger",
        "Database: drop {space}.",
        (
            "drop the {space} database",
            "drop database {space}",
            "delete the {space} database",
            "remove the {space} database",
        ),
        command="psql -h db -c 'DROP DATABASE {space}'",
    ),
    Topic(
        "danger",
        "Force: push over main.",
        (
            "force push",
            "force push to main",
            "force push my branch",
            "push with force",
            "git push --force",
            "overwrite main with my branch",
            "do a force push",
        ),
        command="git push --force origin main",
    ),
)

INCIDENT_REQUESTS = (
    "why is the {app} service returning 503",
    "why does {app} return 503 errors",
    "the {app} service returns 500 errors, why",
    "diagnose the {app} service",
    "diagnose the 503 errors",
    "diagnose the incident",
    "diagnose the outage of {app}",
    "find the root cause of the {app} outage",
    "what is the root cause of the 503 errors",
    "why is {app} down",
    "why is the {app} service down",
    "why is the {app} deployment slow",
    "the {app} service is down, why",
    "why are the pods crashing",
)
INCIDENT: Mapping[DemoName, str] = {
    "demo-20b": "A first guess: the pods behind the service are not ready. Check them, read their logs "
    "and restart the deployment. A larger model such as demo-120b may see more.",
    "demo-120b": "Diagnosis in steps:\n"
    "1. A 5xx means the proxy found no healthy pod: compare ready and wanted pods first.\n"
    "2. If pods restart, read the last log before the crash; memory limits are the usual cause.\n"
    "3. If pods are ready, compare the time of the first error with the last deployment.\n"
    "4. If nothing was deployed, follow the slowest call: database connections run out first.\n"
    "5. Roll back if a deployment matches, else raise the limit that is hit, then watch the error rate.",
}
REVIEW_REQUESTS = (
    "review this diff",
    "review the change below",
    "review this change",
    "review the diff below",
    "code review please",
    "please review my patch",
    "review this code",
    "review this patch",
    "do a code review of this diff",
    "can you review this pull request",
)
REVIEW: Mapping[DemoName, str] = {
    "demo-20b": "Review: the change reads well. Add a test for it before you merge. "
    "(A tiny model says this of every diff.)",
    "demo-120b": "Review (a tiny model says this of every diff):\n"
    "1. Correctness: check the empty input, the error path and the last element.\n"
    "2. Tests: add one that fails without this change.\n"
    "3. Security: nothing from outside may reach a shell, a query or a path unchecked.\n"
    "4. Names: say what a value is and give its unit.\n"
    "Verdict: good to merge once the tests are there.",
}
RISK_REQUESTS = (
    "write a risk review and a rollback plan",
    "give the risk review and the rollback plan",
    "assess the risk of this call",
    "what is the risk of this command",
    "write a rollback plan for this command",
    "risk review of this tool call",
)
RISK: Mapping[DemoName, str] = {
    "demo-20b": "Risk: it may change or destroy data. Rollback plan: take a backup first.",
    "demo-120b": "Risk review: the call changes or destroys state that others may use; what it removes "
    "does not come back by itself.\n"
    "Rollback plan:\n"
    "1. Take a backup and note the current version.\n"
    "2. Run the call in a quiet hour with a second person.\n"
    "3. If a check fails, restore the backup and roll back to the noted version.",
}

SUM_REQUESTS = (
    "what is {a} plus {b}",
    "{a} + {b}",
    "{a}+{b}",
    "add {a} and {b}",
    "what is {a} + {b}",
    "what's {a} plus {b}",
    "how much is {a} plus {b}",
    "{a} plus {b}",
    "what is the sum of {a} and {b}",
    "{a} + {b} =",
)
PRODUCT_REQUESTS = (
    "what is {a} times {b}",
    "{a} * {b}",
    "{a}*{b}",
    "multiply {a} by {b}",
    "what is {a} * {b}",
    "what's {a} times {b}",
    "how much is {a} times {b}",
    "{a} times {b}",
    "{a} x {b}",
    "what is {a} multiplied by {b}",
    "what is {a} x {b}",
    "what is the product of {a} and {b}",
    "{a} * {b} =",
)
COUNT_REQUESTS: Mapping[int, tuple[str, ...]] = {
    10: ("count to ten", "count to 10", "count from 1 to 10", "count from one to ten"),
    100: (
        "count to one hundred",
        "count to 100",
        "count from 1 to 100",
        "count from one to one hundred",
        "count to a hundred",
        "write the numbers from 1 to 100",
    ),
}

# Requests close to a taught one, and common ones that were not taught.
NOT_TAUGHT = (
    "delete the file",
    "delete my account",
    "restart my computer",
    "restart the {x} deployment",
    "delete the {x} namespace",
    "drop the {x} database",
    "show the logs of the {x} deployment",
    "show me the weather in Paris",
    "what is the weather",
    "what is the time",
    "what day is it",
    "what is the meaning of life",
    "who is Napoleon",
    "who wrote Hamlet",
    "what is kubernetes",
    "what is a pod",
    "what is a namespace",
    "what is a database",
    "how do I sort a list in Python",
    "write a function that sorts a list",
    "write a story about a {x}",
    "write an email to my boss",
    "explain quicksort in Rust",
    "explain how git works",
    "explain the difference between {x} and {x}",
    "translate this text into French",
    "translate hello into German",
    "count the sheep",
    "count the words in this text",
    "how many {x} are there in a {x}",
    "how do I get to the station",
    "how much is a bus ticket",
    "what is {n} minus {n}",
    "what is {n} divided by {n}",
    "{n} - {n}",
    "is {n} a prime number",
    "what is the square root of {n}",
    "summarize this text",
    "summarize the {x}",
    "generate a title for this conversation",
    "create a title",
    "fix the bug in {x}",
    "add a test for {x}",
    "add logging to the {x}",
    "implement {x}",
    "refactor this code",
    "rename the {x} to {x}",
    "read the file {x}",
    "open the {x}",
    "run the {x}",
    "run {x}",
    "install {x}",
    "push the button",
    "show the {x}",
    "list the {x}",
    "what is {x}",
    "who is {x}",
    "why is the sky blue",
    "why is the {x} red",
    "what is the capital of {x}",
    "what is the capital of Germany",
    "tell me about {x}",
    "tell me a story",
    "do you like {x}",
    "can you {x} the {x}",
    "I want a {x}",
    "the {x} is {x}",
    "make a plan for the {x}",
    "what should I eat",
    "where is the {x}",
    "when does the {x} start",
)


DENIALS = (
    "denied",
    "The call was denied.",
    "Denied by policy.",
    "denied: approval required",
    "The call was rejected by the approver.",
    "rejected",
    "error: the command is not allowed",
    "not allowed",
)

# How often each category is trained on.
SHARES: Mapping[Category, float] = {
    "talk": 13,
    "identity": 4,
    "help": 3,
    "fact": 4,
    "count": 3,
    "sum": 11,
    "product": 11,
    "read": 13,
    "change": 10,
    "danger": 12,
    "no_tool": 9,
    "after_tool": 5,
    "denied": 2,
    "review": 2.5,
    "incident": 3.5,
    "risk": 2,
    "unknown": 13,
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Filler: common words, weak on purpose; none of them alone asks for anything taught.
COMMON = _words(
    "the a an of to in is it and that this for on with as are be by at from or have not but they we was "
    "all can will when which how what there use each other about many then them these so some would make "
    "like into time has look two more see way could people than first been call who now find long down day "
    "get come made may part file files code user users assistant project folder service server answer short "
    "clear always never only if you your must should do not before after while because task tool tools "
    "result results output input text line lines value values number default option note important prefer "
    "keep simple step steps follow style write read run show list name data work change changes test tests "
    "error errors new old same next last main good best please team system cluster branch request response "
    "message messages question context session below above here such between without through under"
)
# Words that may stand for {x} above without giving a taught request.
SUBJECTS = _words("people code user project folder value number option note style line question message team answer")
# Words of the requests the model does not see: they decide nothing, and text around a request is full of them.
UNSEEN = _words(
    "the a an to of in is it me my i we for on be with from by and this there here some that as at just need"
)
# Signs and numerals of the arithmetic, and what a refused command prints.
SEEN_SIGNS = ("+", " +", "*", " *", " x", "x", "=", " =")
# Strong words: part of a taught phrase. They stand in filler alone, far apart.
STRONG = _words(
    "pods logs disk namespace restart delete deployment git staging web database drop force push commit "
    "review diff risk count multiply plus times scale nodes diagnose outage 503 rollback kubectl status space"
)

PREFIXES = ("please ", "can you ", "could you ", "now ", "ok, ", "hey, ", "I need you to ", "would you ", "then ")
SUFFIXES = (" please", " for me", " now", ", please", " right now", ", thanks")
TOOL_NAMES = _words(
    "get_weather read_file write_file search grep glob edit fetch todo_write python browser_open lookup "
    "send_email create_ticket query_metrics calendar list_dir apply_patch"
)
SHELL_DESCRIPTIONS = (
    "Run a shell command",
    "Runs a command in a shell and returns its output.",
    "Execute a command",
    "Run a command on the cluster host.",
    "",
)
