"""Names: the cases in the order of the tables, and the clients in groups."""

CASES = [
    ("plain", "answer"),
    ("reasoning", "reasoning, then an answer"),
    ("one-call", "one tool call"),
    ("rounds", "parallel calls over two rounds"),
    ("reasoning-replayed", "reasoning comes back to the model"),
    ("approved", "held call, approved while the client waits"),
    ("withheld", "held call, withheld"),
    ("partly-withheld", "first call released, second withheld"),
    ("too-long", "context overflow"),
    ("too-long-at-first", "context overflow, then compacted"),
    ("budget", "budget exhausted"),
    ("rate-limit", "too many open requests, then free"),
    ("overload-passes", "upstream overloaded twice, then not"),
    ("overload-lasts", "upstream overloaded for good"),
    ("truncated", "answer cut by the length limit"),
    ("broken-once", "stream breaks once"),
    ("broken-always", "stream breaks every time"),
    ("bad-key", "revoked key"),
    ("silence", "long silence"),
    ("state", "stored responses: continued, in the background, cancelled, deleted"),
    ("repair", "reads a repository, patches a file, runs its tests"),
    ("runner", "its only shell is `gatehouse-run --mcp`, as docs/runner.md says"),
    ("engine", "one answer from a real engine"),
]

COMMAND_LINES = ("codex", "claude-code", "opencode", "continue", "aider")
AGENTS = COMMAND_LINES[:4]
PYTHON = (
    "openai-python-3-chat",
    "openai-python-3-chat-stream",
    "openai-python-3-responses",
    "openai-python-3-responses-stream",
    "openai-python-2-chat",
    "openai-python-2-chat-stream",
    "openai-python-2-responses",
    "openai-python-2-responses-stream",
    "anthropic-python-whole",
    "anthropic-python-stream",
)
FRAMEWORKS = ("openai-agents-responses", "openai-agents-responses-stream", "openai-agents-chat", "langchain-chat")
NODE = ("openai-node-chat", "openai-node-responses", "anthropic-node-messages")
LIBRARIES = (*PYTHON, *FRAMEWORKS, *NODE)
SOME_LIBRARIES = (
    "openai-python-3-chat-stream",
    "openai-python-3-responses",
    "openai-python-3-responses-stream",
    "anthropic-python-stream",
    "openai-agents-responses",
    "langchain-chat",
    *NODE,
)
"""One per library and dialect, for the cases that are about statuses and broken streams."""

GROUPS = {
    "Command lines": COMMAND_LINES,
    "openai-python, chat and responses": PYTHON[:4],
    "openai-python of the major version before": PYTHON[4:8],
    "anthropic-python, frameworks": (*PYTHON[8:], *FRAMEWORKS),
    "Node": NODE,
}
