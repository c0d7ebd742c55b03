"""What `gatehouse doctor` concludes of models with two revisions: the right one, and room for both. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from serve_app.cli.diagnosis import GIB, MIB, Check, Facts, Needs, PortState, Status

ENGINE_BYTES = 1_250 * MIB
"""A replica of vLLM on CPU beside its weights and its cache, as measured with the smallest one."""


class RevisionState(StrEnum):
    """Whether a candidate is of the revision that it names."""

    SAME = "same"
    OTHER = "other"
    REFUSED = "refused"  # nothing that could be registered
    UNTOLD = "untold"  # it was registered with settings that only the server knows, or its files are not here
    UNREAD = "unread"  # nobody looked


@dataclass(frozen=True, slots=True)
class Candidate:
    """The second revision of a model. `why`: what keeps it from being registered.

    `wanted_bytes`: weights and cache, beside those of the engine. `missing_bytes`: what is to be copied here still,
    guessed by the engine's checkpoint; `free_bytes`: the room there is where it is to lie.
    """

    model: str
    revision: RevisionState
    why: str = ""
    wanted_bytes: int = 0
    missing_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that are wanted: `devices` by all engines, `bytes_each` by the one that wants most of one device.

    `crowded`: models whose engine and candidate share a device and want more than all of its memory.
    """

    devices: float = 0.0
    bytes_each: int = 0
    crowded: tuple[str, ...] = ()


def candidate_checks(facts: Facts, needs: Needs, candidates: Sequence[Candidate], wanted: Gpus) -> tuple[Check, ...]:
    """All checks of candidates; none where there are none."""
    if not candidates:
        return ()
    room = [_room(each) for each in candidates if each.missing_bytes]
    return (_revisions(candidates), *room, _both(facts, needs, candidates, wanted))


def _room(candidate: Candidate) -> Check:
    """What a candidate that is still to be copied needs where it is to lie."""
    seen = (
        f"{candidate.model}: about {candidate.missing_bytes / GIB:.1f} GiB are to come, "
        f"{candidate.free_bytes / GIB:.1f} GiB are free"
    )
    if candidate.missing_bytes > candidate.free_bytes:
        return Check("room", Status.FAIL, seen, "free some where candidate.source is to lie, or name another place")
    return Check("room", Status.OK, seen)


def _revisions(candidates: Sequence[Candidate]) -> Check:
    seen = ", ".join(f"{each.model}: {_REVISIONS[each.revision]}" for each in candidates)
    found = {each.revision for each in candidates}
    for state in (RevisionState.REFUSED, RevisionState.OTHER, RevisionState.UNTOLD):
        if state in found:
            first = next(each for each in candidates if each.revision is state)
            status = Status.WARN if state is RevisionState.UNTOLD else Status.FAIL
            return Check("revisions", status, seen, _SAID[state].format(model=first.model, why=first.why))
    return Check("revisions", Status.OK, seen)


_REVISIONS = {
    RevisionState.SAME: "the candidate is what its revision says",
    RevisionState.OTHER: "the candidate is another revision",
    RevisionState.REFUSED: "the candidate cannot be registered",
    RevisionState.UNTOLD: "the candidate cannot be compared here",
    RevisionState.UNREAD: "the candidate was not read",
}
_SAID = {
    RevisionState.OTHER: "its files or settings changed after it was registered, or candidate.revision is wrong: "
    "gatehouse rollout register --kind model --target {model} --path SOURCE --dry-run says what is there",
    RevisionState.REFUSED: "{why} Copy plain files to a folder of their own, and register that",
    RevisionState.UNTOLD: "gatehouse rollout start compares it: it lies elsewhere, or was registered with settings",
}


def _both(facts: Facts, needs: Needs, candidates: Sequence[Candidate], wanted: Gpus) -> Check:
    """Whether the engines of both revisions find room at the same time."""
    if needs.device == "cuda":
        return _both_on_gpus(facts, wanted)
    more = sum(each.wanted_bytes + ENGINE_BYTES for each in candidates if each.wanted_bytes)
    asked = needs.min_memory_gib + more / GIB
    available_gib = facts.memory_bytes / GIB
    if facts.port is PortState.GATEHOUSE:
        return Check("both revisions", Status.OK, f"{available_gib:.1f} GiB available beside a running Gatehouse")
    seen = f"{available_gib:.1f} GiB available, {asked:.1f} GiB needed with candidates"
    if available_gib < asked:
        return Check(
            "both revisions",
            Status.FAIL,
            seen,
            "both engines of a rollout are loaded at once: more memory, or fewer models",
        )
    return Check("both revisions", Status.OK, seen)


def _both_on_gpus(facts: Facts, wanted: Gpus) -> Check:
    smallest = min((_gpu_bytes(each) for each in facts.gpus), default=0)
    seen = f"{len(facts.gpus)} GPUs, {wanted.devices:g} wanted by all engines"
    if wanted.crowded:
        return Check(
            "both revisions",
            Status.FAIL,
            f"{seen}; {', '.join(wanted.crowded)}: two engines on one GPU",
            "gpu_memory_utilization of engine and candidate must add up to 1 at most, or give each a GPU (num_gpus: 1)",
        )
    if smallest and wanted.bytes_each > smallest:
        return Check(
            "both revisions",
            Status.FAIL,
            f"{seen}; {wanted.bytes_each / GIB:.1f} GiB wanted of one GPU of {smallest / GIB:.1f} GiB",
            "a larger tensor_parallel_size, or smaller weights",
        )
    if wanted.devices > len(facts.gpus):
        return Check(
            "both revisions",
            Status.WARN,
            seen,
            "on one machine the last engine would wait for ever; on a cluster other nodes must have the rest",
        )
    return Check("both revisions", Status.OK, seen)


def _gpu_bytes(line: str) -> int:
    """Memory of a device as nvidia-smi lists it, `NAME, 81920 MiB, DRIVER`; 0 when it does not say."""
    found = re.search(r",\s*(\d+)\s*MiB\b", line)
    return int(found[1]) * MIB if found else 0
