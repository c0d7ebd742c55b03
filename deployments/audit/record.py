"""Audit record v1: which events exist, which fields each may carry, and the bytes of a record.

The law of this schema: event names and fields are added, never removed, renamed or given another meaning. A record
that does not fit is refused at the producer's door, because a log that takes anything proves nothing. No field holds a
prompt, an answer or an argument: those appear as digests (`*_digest`) or salted commitments (`*_commit`).

Three tables: `KINDS` of values, `FIELDS` with their meaning, `EVENTS` with their fields and who records them.
`docs/audit-schema.md` and `configs/audit-record.schema.json` are written from them (`schema_doc.py`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from deployments.audit.canonical import canonical
from deployments.errors import AuditRefused
from deployments.ports import AuditEvent, JsonValue

SCHEMA = "gatehouse.audit/1"
MAX_RECORD_BYTES = 16_384
MAX_TEXT_CHARS = 1_024
MAX_LIST_ITEMS = 64
MAX_INTEGER = 2**53 - 1  # RFC 8785 has no exact form beyond it

ENVELOPE: Mapping[str, str] = {
    "schema": f"always `{SCHEMA}`",
    "sequence": "place in the log, dense from 0; a receipt calls it the index",
    "event_id": "chosen by the producer, occurs once",
    "name": "the event: `subject.action`",
    "at_ms": "when, by the producer's clock, in milliseconds since the epoch; the order of the log is the sequence",
    "tenant": "whose event it is; `system` for what belongs to nobody",
    "principal": "id of the key that acted, or the part of Gatehouse that did",
    "request_id": "the request it belongs to, or null",
    "session": "the conversation it belongs to, or null; a keyed hash, no client's own id",
    "change_id": "the change or ticket that it belongs to, or null",
    "policy_digest": "SHA-256 of the policy that decided, or null: the gate's bundle for calls, approvals and "
    "`config.loaded`, the router's policy for `route.*` and `generation.*` (64 zeros: the model has no tier, so none)",
    "code_version": "version of the Gatehouse that wrote the record",
    "data": "the event's own fields",
}
HOISTED = ("change_id", "policy_digest")
"""Fields of the envelope that producers hand in as fields of the event; old records have them in `data`."""

_ENVELOPE = frozenset(ENVELOPE)
_OLD_ENVELOPE = _ENVELOPE - frozenset(HOISTED)


class InvalidRecord(AuditRefused):
    """The event does not fit record v1; nothing of its call was appended."""


# --- kinds of values ---------------------------------------------------------------------------------------------


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_CHARS


def _is_texts(value: object) -> bool:
    if not isinstance(value, list):
        return False
    items = cast("list[object]", value)
    return len(items) <= MAX_LIST_ITEMS and all(map(_is_text, items))


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -MAX_INTEGER <= value <= MAX_INTEGER


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def _is_number(value: object) -> bool:
    # Beyond that a whole number has no RFC 8785 form once it is read back as an integer. Not true of NaN either.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_body(value: object) -> bool:
    if not isinstance(value, dict) or len(cast("dict[object, object]", value)) != len(BODY):
        return False
    parts = cast("dict[str, object]", value)
    return all(name in parts and KINDS[kind][0](parts[name]) for name, (kind, _) in BODY.items())


Fits = Callable[[object], bool]
KINDS: Mapping[str, tuple[Fits, str]] = {
    "text": (_is_text, f"text of at most {MAX_TEXT_CHARS} characters"),
    "texts": (_is_texts, f"a list of at most {MAX_LIST_ITEMS} texts"),
    "sha256": (_is_sha256, "a SHA-256 in 64 lower-case hex digits"),
    "count": (_is_count, "an integer from 0 to 2**53 - 1"),
    "integer": (_is_integer, "an integer of at most 2**53 - 1, or its negative"),
    "number": (_is_number, "a finite number of at most 2**53 - 1, or its negative"),
    "flag": (_is_flag, "true or false"),
    "body": (_is_body, "an object of blob, key_id, bytes and masked"),
}
BODY: Mapping[str, tuple[str, str]] = {
    "blob": ("sha256", "SHA-256 of the stored ciphertext, which is also its name in the store"),
    "key_id": ("text", "the tenant's data key that it is encrypted under"),
    "bytes": ("count", "length of the plaintext in bytes"),
    "masked": ("count", "secrets that were masked before it was encrypted"),
}
"""Parts of a kept body, all of them required: (kind, meaning)."""

# --- the fields --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """A field: the kind of its values, and what it means. It means the same in every event that carries it."""

    kind: str
    means: str


def _fields(kind: str, /, **meanings: str) -> dict[str, Field]:
    return {name: Field(kind, means) for name, means in meanings.items()}


FIELDS: Mapping[str, Field] = {
    **_fields(
        "text",
        alerts="percentages of a budget's amount at which somebody is told",
        action="the strongest thing done about a finding: tag, mask, keep_local or block; off: nothing was found",
        agent="the client software that asked, as far as it names itself",
        approval_id="the request for approval that it belongs to",
        audience="the runner that a permit is for",
        budget_id="the budget",
        call_id="id of the tool call, as the model wrote it",
        cascade="what became of a verified cascade that the client asked for: kept, escalated, unverified or refused",
        change_id="the change or ticket that it belongs to; stored in the envelope",
        dialect="wire format of the request: chat, completions, responses, messages or embeddings",
        direction="whose words were looked at: input (of the request) or output (of the answer)",
        effort="reasoning effort that was used",
        exec_profile="how a runner must execute the call",
        error_code="why it failed, in the words of the error table",
        evaluation="why a revision was not evaluated before it got traffic",
        gate_call_id="random id that the gate gave the call",
        gate_profile="gate profile of a key: observe, coding or ops",
        incident_id="the incident that it belongs to",
        key_id="the key that the event is about",
        key_name="what the key is for, in its creator's words",
        kind="which sort of bypass, incident or rollout",
        model="the model that answers, or that wrote the call",
        outcome="how it ended",
        permit_id="the permit",
        person="the natural person behind a key",
        policy_revision="revision of the gate's policy that judges the session, where another one judges others",
        previous_revision="the revision before",
        prompt_revision="revision of the operator's instructions, where other sessions get another one",
        profile="the gate profile that a call was judged under (observe, coding, ops), or that a configuration has",
        reason="why, in the words of a rule or a part; never a human's",
        reporter="the natural person who reports; absent: a service",
        requested_effort="effort that the client asked for",
        requested_model="model that the client asked for, cut to 128 characters",
        requester_key="the key whose request proposed the call",
        requester_person="the natural person behind that key",
        revision="revision of the model, or the one that is rolled out",
        risk="class of the call: R0 reads, R1 changes what is easily undone, R2 needs one human, R3 two",
        rollback_of="the permit whose execution this one takes back",
        rollback_status="what became of the way back: whether it was needed, and whether it worked",
        rollout_id="the rollout that it belongs to",
        route_id="the routing decision",
        router_revision="revision of the router's snapshot that decided, where another one decides for others",
        rule_set="name of the gate's policy bundle",
        severity="how bad the incident is",
        shadow_outcome="what the shadow bundle would have done with the call",
        shadow_risk="class of the call under the shadow bundle",
        source="where it comes from: a report from the conversation itself, a call of the API, or a runner",
        standing_plan="id of the policy object that covers a change without a plan of its own",
        state="state of the approval or rollout after the event",
        team="the part of the tenant that a key belongs to",
        tier="the router's tier of the model",
        title="what an operator calls it; written in clear, so no secrets",
        unit="what a budget counts: tokens, or micros (millionths of the currency of the price table)",
        tool="name of the tool, escaped and cut to 256 characters",
        verdict="what the checks of an answer say together: pass, fail or unknown",
        version="version of the code",
        window="how long a budget lasts: hour, day, week, month (UTC), fixed or total",
        voter="the natural person who voted",
        voter_key="the key they voted with",
    ),
    **_fields(
        "texts",
        families="an evaluation by families of cases: how many the new revision passed, and how many the one before",
        figures="what a rollout was judged by, a line for each metric: bad ones and trials of the new revision, and of "
        "the one before; natural logarithms of the evidence that it is worse, and that it is not much worse, and what "
        "either needs",
        findings="the checks that an answer failed, each with what it found; none of its words",
        finish_reasons="why each choice ended, as the client sees it",
        key_ids="data keys that were destroyed",
        matched="what guardrails found, each as `detector.kind:action=count`; none of its words",
        models="models that are granted or served",
        prompts_failed="names of the smoke prompts that a revision did not answer, or why it could not be loaded",
        reasons="every rule that fired, the deciding one first",
        roles="roles of a key, or those of which an approver needs one",
        repairs="what was guessed when malformed model output was repaired",
        rules="what a rollout is judged by, a line for each rule",
        scopes="what a key may do",
        unchecked="guardrails that could not look, each as `detector:why`",
        voters="the natural persons who approved",
    ),
    **_fields(
        "sha256",
        action_digest="SHA-256 of the whole binding of a call: what an approval is given for",
        arguments_commit="salted commitment to the canonical arguments",
        config_digest="SHA-256 of the configuration",
        display_digest="SHA-256 of what an approver sees",
        fingerprint="SHA-256 of the binding without its random call id: the same call of the same session again",
        head_hash="hash that covers all records before",
        output_commit="salted commitment to the output: of a generation, the SHA-256 of the bytes handed to the HTTP "
        "edge (for a stream without signs of life and the error event of one that breaks off), and for an attempt that "
        "was not sent those of the engine; of an action, the text that was reported",
        policy_digest="SHA-256 of the policy that decided; stored in the envelope",
        previous_digest="the digest before",
        redeemer="SHA-256 of the nonce of the runner that takes an execution",
        prompt_commit="salted commitment to the request: the SHA-256 of its parsed body in RFC 8785 form, earlier "
        "turns of a stored conversation included (a body with integers beyond 2**53 - 1, which RFC 8785 does not have: "
        "keys sorted, no white space, numbers as Python writes them)",
        reason_commit="salted commitment to a human's words",
        rollback_digest="SHA-256 of the rollback plan, in RFC 8785 form",
        rules_digest="SHA-256 of a rollout's `rules`, a newline after each",
        shadow_policy_digest="SHA-256 of the shadow bundle",
        suite_digest="SHA-256 of the file of evaluation cases",
    ),
    **_fields(
        "body",
        arguments_body="the arguments, encrypted",
        output_body="the output, encrypted",
        prompt_body="the request, encrypted",
        reason_body="a human's words, encrypted",
    ),
    **_fields(
        "count",
        amount="what may be used in the window of a budget",
        anchor_ms="when the first window of a budget of fixed windows began, in milliseconds since the epoch",
        artefact_bytes="size of all files of an artefact",
        artefact_files="how many files an artefact has",
        attempts="generations it took; 2 when a malformed reply was thrown away",
        baseline_passed="evaluation cases that the revision before passed",
        bodies="how many stored bodies became unreadable or were deleted",
        budget_tokens="what a key may use in all its time; null: no limit",
        concurrent_requests="of a key: requests that may be open at once; null: the installation's",
        cached_tokens="input tokens that the engine had in its cache",
        candidate_passed="evaluation cases that the new revision passed",
        cases="evaluation cases that both revisions were asked",
        choice="choice of the reply that the call is in",
        days="age in days after which bodies are deleted",
        duration_ms="from the request's arrival to its end",
        epoch="how often the log was opened for writing, this time included",
        every_s="how long each window of a budget of fixed windows is",
        expires_ms="when it ends, in milliseconds since the epoch",
        hold_s="of a key: how long a call that needs an approval waits for it",
        index="place of a call within its turn",
        input_tokens="tokens of the prompt",
        only_baseline="evaluation cases that the revision before passed and the new one did not",
        only_candidate="evaluation cases that the new revision passed and the one before did not",
        output_tokens="tokens that were generated",
        percent="of the amount of a budget",
        previous_until_ms="until when the text of a key before its rotation is good, in milliseconds since the epoch",
        prompts_asked="smoke prompts that a revision was asked",
        reasoning_tokens="those of them that were reasoning",
        reserved="what is set aside of a budget for requests that are open",
        requests_per_minute="of a key; null: no limit",
        size="records before this one",
        status="HTTP status",
        step="which step of a rollback plan, from 0; the verification is the last",
        tokens_per_minute="of a key, input and output; null: no limit",
        tool_calls="complete calls that the model wrote",
        torn_bytes="bytes of an unacknowledged write that recovery cut off",
        ttft_ms="from the request's arrival to the first byte of the answer",
        ttl_s="lifetime of a key",
        used="what was used of a budget in its window",
        votes="approving votes so far",
        votes_required="approving votes it takes",
        window_start_ms="when the window of a budget began, in milliseconds since the epoch",
    ),
    **_fields("integer", exit_code="exit status of the process; negative: the signal that ended it"),
    **_fields(
        "number",
        difficulty="the router's estimate, from 0 to 1",
        p_needed="at which `p_value` a revision goes back",
        p_value="how probable an evaluation as bad as this one is for a revision that is as good as the one before",
        share_percent="share of the traffic that the new revision gets",
    ),
    **_fields(
        "flag",
        hard="true: a budget refuses what does not fit; false: it only tells",
        approve="true: a vote for, false: against",
        estimated="the tokens are a reservation that no engine confirmed",
        plan_required="a change id and a rollback plan are still missing",
        recovered="the call was repaired from malformed output, so it is trusted with nothing",
        signed="an artefact has a signature; a controller with a key takes no other",
        stream="the client asked for a stream",
        untrusted="text from outside was in the conversation when the call was written",
    ),
}


# --- the events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventSchema:
    """One event: `says` who records it and when.

    An optional field may be absent or null; nothing else may be there. `words` closes the values of a text field.
    """

    says: str
    required: frozenset[str]
    allowed: frozenset[str]
    words: Mapping[str, frozenset[str]]


def _event(says: str, required: str, optional: str = "", **words: str) -> EventSchema:
    names = frozenset(required.split())
    allowed = names | frozenset(optional.split()) | frozenset(HOISTED)
    return EventSchema(says, names, allowed, {name: frozenset(each.split()) for name, each in words.items()})


_CALL = (
    "action_digest agent approval_id arguments_body arguments_commit call_id change_id choice dialect display_digest "
    "expires_ms fingerprint gate_call_id index model outcome permit_id plan_required policy_digest profile reason "
    "reasons recovered risk rollback_digest route_id rule_set shadow_outcome shadow_policy_digest shadow_risk source "
    "standing_plan tier tool untrusted votes_required"
)
_APPROVAL = (
    "action_digest approval_id approve arguments_body arguments_commit change_id display_digest expires_ms fingerprint "
    "gate_call_id model outcome permit_id plan_required policy_digest reason reason_body reason_commit reasons "
    "requester_key requester_person risk roles rollback_digest route_id state tool voter voter_key voters votes "
    "votes_required"
)
_KEY = (
    "budget_tokens concurrent_requests expires_ms gate_profile hold_s key_name models person previous_until_ms reason "
    "requests_per_minute roles scopes team tokens_per_minute ttl_s"
)
_BUDGET = "alerts anchor_ms every_s hard key_id team"
_PERMIT = (
    "approval_id arguments_body arguments_commit audience change_id exec_profile expires_ms gate_call_id policy_digest "
    "requester_key risk rollback_digest rollback_of source step tool"
)
_REPORT = "gate_call_id approval_id reporter reason_commit reason_body"
_ROLLOUT = "model revision previous_revision share_percent state reason change_id rules_digest"
_JUDGED = (
    f"{_ROLLOUT} prompts_asked prompts_failed evaluation figures suite_digest cases candidate_passed baseline_passed "
    "only_candidate only_baseline p_value p_needed families"
)
_INCIDENT = "title severity approval_id gate_call_id change_id outcome reporter reason_commit reason_body"

EVENTS: Mapping[str, EventSchema] = {
    # event: who and when | required | optional | closed values
    "route.decided": _event(
        "the ingress, when it knows which model answers a request",
        "route_id model tier effort reason policy_digest",
        "dialect difficulty policy_revision prompt_revision reasons requested_effort requested_model revision "
        "router_revision stream prompt_commit prompt_body",
    ),
    "generation.finished": _event(
        "the ingress, when a request has ended, however it did; once more for the other attempt of a cascade",
        "route_id model outcome",
        "attempts cached_tokens dialect duration_ms effort error_code estimated finish_reasons input_tokens "
        "output_tokens reason reasoning_tokens repairs revision status stream tier tool_calls ttft_ms output_commit "
        "output_body cascade findings verdict",
    ),
    "guardrail.found": _event(
        "the ingress, when guardrails found something in a request or an answer, or could not look",
        "direction action outcome",
        "matched unchecked dialect route_id",
        direction="input output",
        action="off tag mask keep_local block",
        outcome="passed refused",
    ),
    "tool_call.proposed": _event("the gate, for every complete call that a model wrote", "gate_call_id tool", _CALL),
    "tool_call.classified": _event(
        "the gate, with the class and the rules that gave it",
        "gate_call_id tool risk outcome policy_digest",
        _CALL,
    ),
    "tool_call.held": _event(
        "the gate, when a call waits for humans", "gate_call_id tool risk action_digest approval_id", _CALL
    ),
    "tool_call.released": _event(
        "the gate, before a byte of the call leaves", "gate_call_id tool risk action_digest profile", _CALL
    ),
    "tool_call.denied": _event("the gate, when a call will never be released", "gate_call_id tool risk", _CALL),
    "tool_call.withheld": _event(
        "the gate, when there is no verdict, or an earlier call of the turn was not released",
        "gate_call_id tool",
        _CALL,
    ),
    "approval.requested": _event(
        "the approval desk, when a call needs a plan or votes",
        "approval_id action_digest risk votes_required",
        _APPROVAL,
    ),
    "approval.planned": _event(
        "the approval desk, when change id and rollback plan are given",
        "approval_id action_digest change_id rollback_digest",
        _APPROVAL,
    ),
    "approval.voted": _event(
        "the approval desk, for each vote that counts", "approval_id action_digest voter approve", _APPROVAL
    ),
    "approval.granted": _event(
        "the approval desk, with the last vote that was needed", "approval_id action_digest", _APPROVAL
    ),
    "approval.reopened": _event(
        "the approval desk, when votes that were counted on count no more: `voters` are those who are left",
        "approval_id action_digest voters",
        _APPROVAL,
    ),
    "approval.rejected": _event(
        "the approval desk, when somebody votes against", "approval_id action_digest", _APPROVAL
    ),
    "approval.expired": _event(
        "the approval desk, when nobody decided in time", "approval_id action_digest", _APPROVAL
    ),
    "approval.cancelled": _event("the approval desk, when it is withdrawn", "approval_id action_digest", _APPROVAL),
    "approval.stale": _event(
        "the approval desk, when the policy changed under it", "approval_id action_digest", _APPROVAL
    ),
    "permit.issued": _event(
        "the permit office, before a runner gets the signed permit of one call", "permit_id action_digest", _PERMIT
    ),
    "permit.consumed": _event(
        "the approval desk, when the one call that was approved may leave", "approval_id action_digest", _APPROVAL
    ),
    "permit.redeemed": _event(
        "the permit office, when a runner takes the one execution that a permit allows",
        "permit_id action_digest",
        f"{_PERMIT} redeemer",
    ),
    "approval.advised": _event(
        "the approval desk, when a model's risk review is put beside a request; it counts for nothing",
        "approval_id action_digest model",
        "effort output_commit output_body policy_digest",
    ),
    "action.reported": _event(
        "the gate or the approval desk, when what became of a released call is told in the conversation or by the API",
        "gate_call_id outcome source",
        f"{_REPORT} permit_id action_digest risk tool call_id exit_code arguments_commit arguments_body output_commit "
        "output_body",
        outcome="succeeded failed unknown",
        source="conversation api runner",
    ),
    "rollback.reported": _event(
        "the approval desk, when somebody reports how the way back of a change went",
        "change_id outcome source",
        f"{_REPORT} permit_id rollback_digest",
        outcome="succeeded failed not_needed",
        source="conversation api runner",
    ),
    "bypass.attempted": _event(
        "whichever part sees that its control was or would have been gone around",
        "kind",
        "gate_call_id approval_id permit_id key_id call_id tool risk action_digest reason",
        kind="held_call_executed denied_call_executed self_approval digest_mismatch event_conflict permit_invalid "
        "permit_unknown permit_replayed permit_expired permit_mismatch frozen_principal",
    ),
    "principal.frozen": _event(
        "the approval desk, when none of a key's tool calls may leave any more",
        "key_id kind",
        "reason reporter reason_commit reason_body",
    ),
    "principal.unfrozen": _event(
        "the approval desk, when an operator lets a key's tool calls leave again",
        "key_id change_id",
        "reporter reason_commit reason_body",
    ),
    "key.created": _event("the ledger, before a key is good", "key_id scopes", _KEY),
    "key.revoked": _event("the ledger, before a key stops working", "key_id", _KEY),
    "key.rotated": _event("the ledger, before a key gets a new text", "key_id", _KEY),
    "key.changed": _event("the ledger, before an identity has the rights that its issuer says now", "key_id", _KEY),
    "key.expiry_changed": _event("the ledger, before a key ends at another time than it did", "key_id", _KEY),
    "budget.set": _event("the ledger, before a budget holds", "budget_id unit amount window", _BUDGET),
    "budget.removed": _event("the ledger, before a budget holds no more", "budget_id", f"unit amount window {_BUDGET}"),
    "budget.alert": _event(
        "the ledger, once a window, when a budget has reached a percentage of its amount, or refuses what is asked for",
        "budget_id percent used amount",
        f"reserved unit window window_start_ms {_BUDGET}",
    ),
    "policy.changed": _event(
        "the approval desk, when it starts with another policy bundle than before; `revision`: with another candidate",
        "policy_digest rule_set",
        "previous_digest revision",
    ),
    "config.loaded": _event(
        "each replica of the ingress, when it starts", "config_digest", "models policy_digest profile version"
    ),
    "config.changed": _event(
        "the approval desk, when it starts under another configuration than before",
        "config_digest",
        "previous_digest profile models version",
    ),
    "rollout.registered": _event(
        "the rollout controller, before it answers that an artefact is registered",
        "kind model revision",
        "artefact_files artefact_bytes signed",
    ),
    "rollout.started": _event("the rollout controller, when it begins", "rollout_id kind", f"{_ROLLOUT} rules"),
    "rollout.promoted": _event("the rollout controller, when the share grows", "rollout_id kind", _JUDGED),
    "rollout.held": _event("the rollout controller, when the share stays", "rollout_id kind", _JUDGED),
    "rollout.rolled_back": _event(
        "the rollout controller, when the revision before is back", "rollout_id kind", _JUDGED
    ),
    "rollout.finished": _event(
        "the rollout controller, when the new revision has everything",
        "rollout_id kind",
        _JUDGED,
    ),
    "incident.opened": _event(
        "an operator, or a part that raises an alert (`action_unreported`: a consumed permit without a report)",
        "incident_id kind severity",
        _INCIDENT,
    ),
    "incident.updated": _event("an operator, when more is known", "incident_id", f"kind {_INCIDENT}"),
    "incident.closed": _event("an operator, when it is over", "incident_id", f"kind {_INCIDENT}"),
    "change.closed": _event(
        "an operator, when nothing more will be done under a change",
        "change_id outcome",
        "rollback_status title reporter reason_commit reason_body",
        outcome="succeeded rolled_back failed",
    ),
    "tenant.shredded": _event(
        "the audit sink, before the data keys of a tenant's bodies are destroyed",
        "key_ids",
        "bodies reason_commit reason_body",
    ),
    "bodies.pruned": _event("the audit sink, when bodies are deleted for their age", "bodies", "days"),
    "audit.canary": _event("the audit sink, to see that evidence is made", ""),
    "log.opened": _event(
        "the audit sink, first of all it writes after a start", "epoch size head_hash", "torn_bytes version"
    ),
    "log.degraded": _event("the audit sink, as the last thing before it stops", "reason"),
}


# --- checks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a value of a field of one event must be. `words` None: whatever fits the kind."""

    fits: Fits
    required: bool
    words: frozenset[str] | None
    wanted: str


def _rule(schema: EventSchema, field: str) -> _Rule:
    fits, wanted = KINDS[FIELDS[field].kind]
    words = schema.words.get(field)
    if words is not None:
        wanted = f"one of {', '.join(sorted(words))}"
    return _Rule(fits, field in schema.required, words, wanted)


_RULES: Mapping[str, Mapping[str, _Rule]] = {
    name: {field: _rule(schema, field) for field in sorted(schema.allowed)} for name, schema in EVENTS.items()
}


def data_problem(name: str, data: Mapping[str, object]) -> str | None:
    """Why `data`, as a producer hands it in, does not fit event `name`, or None when it fits.

    Names fields, never their values.
    """
    rules = _RULES.get(name)
    if rules is None:
        return "the event name is not one of audit record v1"
    for field, value in data.items():
        rule = rules.get(field)
        if rule is None:
            return f"'{name}' does not have a field '{field[:64]}'"
        if value is None and not rule.required:
            continue
        if not rule.fits(value) or (rule.words is not None and value not in rule.words):
            return f"field '{field}' of '{name}' must be {rule.wanted}"
    required = EVENTS[name].required
    if not required <= data.keys():
        return f"'{name}' lacks the field '{min(required - data.keys())}'"
    return None


def fields_of(record: Mapping[str, object]) -> dict[str, JsonValue]:
    """The fields of a decoded record as its producer handed them in: `data`, change id and policy digest.

    Reads records of both envelopes; what is null in the envelope is absent.
    """
    data = dict(cast("Mapping[str, JsonValue]", record["data"]))
    for field in HOISTED:
        value = cast("JsonValue", record.get(field))
        if value is not None:
            data[field] = value
    return data


def record_problem(record: Mapping[str, object]) -> str | None:
    """Why a decoded record is not record v1, or None when it is."""
    names = frozenset(record)
    if names not in (_ENVELOPE, _OLD_ENVELOPE):
        return "the record does not have exactly the envelope fields of record v1"
    if record["schema"] != SCHEMA:
        return f"the schema is not {SCHEMA}"
    version = record["code_version"]
    if not _is_text(version) or not version:
        return f"envelope field 'code_version' must be non-empty text of at most {MAX_TEXT_CHARS} characters"
    if not _is_count(record["sequence"]):
        return "envelope field 'sequence' must be an integer from 0 to 2**53 - 1"
    data = record["data"]
    if not isinstance(data, dict):
        return "envelope field 'data' must be an object"
    fields = cast("dict[str, object]", data)
    if len(names) == len(_ENVELOPE):
        if "change_id" in fields or "policy_digest" in fields:
            return "change_id and policy_digest belong into the envelope"
        fields = cast("dict[str, object]", fields_of(record))
    return _problem(
        record["event_id"],
        record["name"],
        record["at_ms"],
        record["tenant"],
        record["principal"],
        record["request_id"],
        record["session"],
        fields,
    )


def _problem(
    event_id: object,
    name: object,
    at_ms: object,
    tenant: object,
    principal: object,
    request_id: object,
    session: object,
    fields: Mapping[str, object],
) -> str | None:
    """What is wrong with an event, wherever its parts come from."""
    for field, value in (("event_id", event_id), ("name", name), ("tenant", tenant), ("principal", principal)):
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT_CHARS:
            return f"envelope field '{field}' must be non-empty text of at most {MAX_TEXT_CHARS} characters"
    for field, value in (("request_id", request_id), ("session", session)):
        if value is not None and not _is_text(value):
            return f"envelope field '{field}' must be text of at most {MAX_TEXT_CHARS} characters, or null"
    if not _is_count(at_ms):
        return "envelope field 'at_ms' must be an integer from 0 to 2**53 - 1"
    return data_problem(cast("str", name), fields)


def _bodies_problem(event: AuditEvent) -> str | None:
    """Whether the bodies of an event may become fields of its record."""
    rules = _RULES[event.name]
    for field, body in event.bodies.items():
        commit = f"{field.value}_commit"
        if commit not in rules:
            return f"'{event.name}' does not have a body '{field.value}'"
        if commit in event.data or f"{field.value}_body" in event.data:
            return f"'{event.name}' has '{field.value}' twice: as a body and as a field"
        if len(body.digest) != 32:
            return f"the digest of the body '{field.value}' of '{event.name}' must be 32 bytes"
    return None


def validate(event: AuditEvent) -> None:
    """Raise `InvalidRecord` unless `event` fits record v1. Its size is known only once it is encoded."""
    problem = _problem(
        event.event_id,
        event.name,
        event.at_ms,
        event.tenant,
        event.principal,
        event.request_id,
        event.session,
        event.data,
    )
    if problem is None and event.bodies:
        problem = _bodies_problem(event)
    if problem is not None:
        raise InvalidRecord(f"The audit log refuses the event: {problem}.")


# --- bytes -------------------------------------------------------------------------------------------------------


def to_object(event: AuditEvent, sequence: int, code_version: str) -> dict[str, JsonValue]:
    """The JSON object of record v1 for `event` at place `sequence`, unchecked. Bodies are the vault's to replace."""
    data = dict(event.data)
    return {
        "schema": SCHEMA,
        "sequence": sequence,
        "event_id": event.event_id,
        "name": event.name,
        "at_ms": event.at_ms,
        "tenant": event.tenant,
        "principal": event.principal,
        "request_id": event.request_id,
        "session": event.session,
        "change_id": data.pop("change_id", None),
        "policy_digest": data.pop("policy_digest", None),
        "code_version": code_version,
        "data": data,
    }


# What RFC 8785 writes, at a fifth of the cost, wherever keys are ASCII (ours are) and floats are spelled alike.
_PLAIN = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False, allow_nan=False
)


def encode(event: AuditEvent, sequence: int, code_version: str) -> bytes:
    """The canonical bytes (RFC 8785) of a valid `event` at place `sequence`; at most 16 KiB, else `InvalidRecord`."""
    record = to_object(event, sequence, code_version)
    try:
        odd = any(isinstance(value, float) and _is_spelled_oddly(value) for value in event.data.values())
        payload = canonical(record) if odd else _PLAIN.encode(record).encode()
    except ValueError as error:  # a lone surrogate, or what `validate` refuses
        raise InvalidRecord(f"The audit log refuses the event '{event.name}': it has no RFC 8785 form.") from error
    if len(payload) > MAX_RECORD_BYTES:
        raise InvalidRecord(f"The audit log refuses the event '{event.name}': larger than {MAX_RECORD_BYTES} bytes.")
    return payload


def _is_spelled_oddly(value: float) -> bool:
    """True when Python and RFC 8785 may write a float differently: whole, tiny, huge or not finite."""
    return not 1e-4 <= abs(value) < 1e15 or value.is_integer()
