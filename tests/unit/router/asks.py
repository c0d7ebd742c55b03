"""Short ways to write a conversation."""

from router.types import Role, RouteRequest, Turn


def user(text: str) -> Turn:
    return Turn(Role.USER, text)


def assistant(text: str, *calls: tuple[str, str]) -> Turn:
    return Turn(Role.ASSISTANT, text, calls)


def tool(text: str) -> Turn:
    return Turn(Role.TOOL, text)


def ask(*turns: Turn | str, **fields: object) -> RouteRequest:
    spoken = tuple(user(turn) if isinstance(turn, str) else turn for turn in turns)
    return RouteRequest(turns=spoken, **fields)


def diff(path: str = "src/shop/cart.py", added: int = 3, removed: int = 2) -> str:
    old, new = f"1,{removed}", f"1,{added}"
    lines = [f"-old {n}" for n in range(removed)] + [f"+new {n}" for n in range(added)]
    body = "\n".join(lines)
    return f"diff --git a/{path} b/{path}\nindex 1..2 100644\n--- a/{path}\n+++ b/{path}\n@@ -{old} +{new} @@\n{body}\n"


INCIDENT = (
    "Checkout has been failing in production since 14:30: the api pods restart and clients see 503 errors. "
    "Investigate and find the root cause."
)
