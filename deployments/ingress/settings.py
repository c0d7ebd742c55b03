"""Settings of the ingress."""

from pydantic import BaseModel, ConfigDict, Field

OUTSIDE_TOOLS = (
    "mcp__*", "*mcp_tool*", "*mcp_resource*",
    "web*", "*web_search*", "*search_web*", "*websearch*", "*web_fetch*", "*webfetch*", "*google*",
    "fetch", "*fetch_url*", "*url_content*", "*scrape*", "*crawl*", "*browse*", "http", "http_*", "*http_request*",
    "*mail*", "*inbox*", "*slack*", "*issue*", "*pull_request*", "*ticket*", "*jira*", "*confluence*",
)  # fmt: skip
"""Names of tools whose results come from outside: MCP servers, the web, browsers, mail and chat, trackers."""

INSIDE_TOOLS = ("mcp__gatehouse__*", "mcp__ide__*")
"""Exceptions: our own runner, and the editor that Claude Code runs in."""


class AdviceSettings(BaseModel):
    """Risk reviews of calls that wait for approval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    auto: bool = Field(default=False, description="Review every R2 and R3 call as soon as it is held.")
    timeout_s: float = Field(default=180.0, gt=0, le=1800, description="Deadline of one review.")
    max_tokens: int = Field(default=4096, ge=64, le=32_768, description="Longest review, its reasoning included.")
    at_once: int = Field(default=2, ge=1, le=64, description="Reviews that run at one time, in each replica.")


class CascadeSettings(BaseModel):
    """Answers of the smaller tier that are checked before they leave, and asked for again from the larger one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed: bool = Field(
        default=True, description="Let a request ask for a verified cascade (`route.cascade`). Off: it gets its answer "
        "as without one, and the headers say so.",
    )  # fmt: skip
    verify_all: bool = Field(
        default=False, description="Check the answers of all requests that are routed by size, so that a failed check "
        "counts in the session's memory; costs about a millisecond of CPU for each.",
    )  # fmt: skip
    max_answer_bytes: int = Field(
        default=2 * 2**20, ge=4096, le=64 * 2**20, description="Longest reply of an engine that is held back or kept "
        "for its checks; a longer one goes out unverified.",
    )  # fmt: skip


class LoadSettings(BaseModel):
    """When a tier counts as down or full, as one replica sees it. The router then gives it no turn that can do without.

    Turns that a rule, a wish or a failure sends there are sent as ever.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    failures: int = Field(default=3, ge=1, description="Calls that must fail in a row for a tier to count as down.")
    down_s: float = Field(
        default=10.0, gt=0, le=600, description="For how long it then does; after that one call may find out."
    )
    queue_s: float = Field(
        default=5.0, gt=0, description="Wait for the first byte of streams (95th percentile of the last minute) from "
        "which on more of a gain is demanded for a turn of the larger tier.",
    )  # fmt: skip
    in_flight: int | None = Field(
        default=None, ge=1, description="Unfinished calls of this replica that count like a queue at that limit; null: "
        "however many there are.",
    )  # fmt: skip
    full_at: float = Field(
        default=2.0, ge=1, description="Multiple of either limit from which on a tier counts as full."
    )


class ActAsSettings(BaseModel):
    """Front ends that sign for whom they ask, with keys of the scope `act-as`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret_file: str = Field(
        description="File with the secret shared with the front end, 32 bytes or more: Open WebUI's "
        "`FORWARD_USER_INFO_HEADER_JWT_SECRET`."
    )
    header: str = Field(
        default="x-openwebui-user-jwt", pattern="^[a-z0-9-]{1,64}$", description="Header with the token, in lower case."
    )
    issuer: str = Field(default="open-webui", min_length=1, description="What `iss` must be.")
    person_claim: str = Field(
        default="email",
        min_length=1,
        description="The claim that names the person, in the words of keys' `--person`.",
    )
    leeway_s: int = Field(default=30, ge=0, le=300, description="Between the clocks of the two.")
    required: bool = Field(default=False, description="Refuse requests of such keys that name nobody.")


class IngressSettings(BaseModel):
    """Limits and deadlines of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=32 * 2**20, ge=1024, description="Largest request body accepted, in bytes.")
    max_held_bytes: int = Field(
        default=256 * 2**20, ge=1024, description="What a replica holds of request bodies that are still arriving."
    )
    body_timeout_s: float = Field(default=60.0, gt=0, description="How long a request body may take to arrive.")
    first_byte_s: float = Field(
        default=10.0, gt=0, description="How long a stream's 200 waits for the first byte, so that early failures "
        "keep their status code.",
    )  # fmt: skip
    cold_fallback: bool = Field(
        default=False, description="Let the other tier answer a routed request while its own is scaled to zero, when "
        "that one is larger. Off: the request waits for the first replica. A request is never moved to a smaller tier.",
    )  # fmt: skip
    keepalive_s: float = Field(default=15.0, gt=0, description="Silence after which a stream gets a sign of life.")
    hold_poll_s: float = Field(
        default=0.5, gt=0, le=10, description="How often a waiting stream asks whether its call has been approved."
    )
    outside_tools: tuple[str, ...] = Field(
        default=OUTSIDE_TOOLS, description="Shell patterns, without regard to case, for the names of tools that bring "
        "text from outside (the web, mail, trackers, other people's MCP servers) into a conversation. Calls that are "
        "written with such text in sight can be of a higher class.",
    )  # fmt: skip
    inside_tools: tuple[str, ...] = Field(
        default=INSIDE_TOOLS, description="Exceptions from `outside_tools`: tools that bring nothing from outside."
    )
    canary_s: float = Field(
        default=30.0, ge=5, le=3600, description="How often each replica sends a synthetic R2 call through the gate."
    )
    cascade: CascadeSettings = Field(default=CascadeSettings(), description="The verified cascade.")
    load: LoadSettings = Field(default=LoadSettings(), description="What counts as a busy or a broken tier.")
    advice: AdviceSettings = Field(default=AdviceSettings(), description="Risk reviews of calls that wait.")
    call_timeout_s: float = Field(default=5.0, gt=0, description="Deadline of a call to ledger, router or gate.")
    audit_timeout_s: float = Field(default=2.0, gt=0, description="Deadline of an audit acknowledgement.")
    principal_ttl_s: float = Field(
        default=2.0, ge=0, le=4, description="How long a replica trusts a key it has checked. Revocation must reach "
        "every replica within 5 s.",
    )  # fmt: skip
    leased_grants: int = Field(
        default=8, ge=0, le=16, description="Grants that a replica holds in advance for a key that asks often, so that "
        "its requests begin without a call to the ledger. 0: each asks.",
    )  # fmt: skip
    rollout_look_s: float = Field(
        default=2.0, gt=0, le=60, description="How often a replica tells the rollout controller what it has counted, "
        "and hears which sessions a candidate gets. Only where a model has a candidate.",
    )  # fmt: skip
    rollout_stale_s: float = Field(
        default=60.0, ge=1, le=3600, description="For how long what a silent controller said last holds; after that "
        "the configured revision answers everybody.",
    )  # fmt: skip
    act_as: ActAsSettings | None = Field(
        default=None, description="How keys with the scope `act-as` say for whom they ask. Without it such a key is "
        "one like any other.",
    )  # fmt: skip
    wrong_keys_per_minute: int = Field(
        default=60, ge=1, description="Wrong API keys that one address may present, per replica; after that it is "
        "answered with 429 until a minute's share is free again. Keys that were good here not long ago go on working.",
    )  # fmt: skip
    forwarded_hops: int = Field(
        default=0, ge=0, le=8, description="How many proxies of your own stand before Gatehouse and write "
        "`x-forwarded-for`; 0: the header is not believed.",
    )  # fmt: skip
    record_delay_s: float = Field(
        default=0.05, ge=0, le=5, description="How long the last record of an answered request waits, so that it does "
        "not compete with the first token of the client's next one. A replica that is killed loses what waits.",
    )  # fmt: skip
    answer_tokens: int = Field(
        default=1024, ge=1, description="Least tokens reserved for an answer without a limit of its own; more where "
        "nine of ten answers at the effort that clients name need more. It cuts no answer.",
    )  # fmt: skip
