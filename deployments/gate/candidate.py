"""A second bundle that is live: loaded beside the configured one, and given the sessions that a rollout names.

What lies on the disk must be what was registered: the revision is the digest of the bundle's file, or of all files of
its folder where the bundle consists of several. A candidate that is anything else, that its key has not signed, that
breaks a law or a floor, or that would not hold the canary's call stops the start of whoever loads it.
"""

from pathlib import Path

from deployments.artefact_files import NotPlain, sums
from deployments.gate.bundle import bundle_path, load_bundle
from deployments.gate.canary import PROFILES, dangerous_call
from deployments.gate.classify import Classifier
from deployments.gate.grammar import BundleError
from deployments.gate.policy import Bundle, read_policy
from deployments.gate.settings import CandidateSettings, GateSettings
from deployments.gate.shell.reader import ShellReader
from deployments.gate.signature import check_signature
from deployments.gate.source import read_source
from deployments.gate.tables import Outcome
from deployments.gate.tenant_names import with_tenants
from deployments.rollouts import POLICY_TARGET, Kind, revision_of_files

_PARSER_S = 10.0


def artefact_path(bundle: str | Path) -> Path:
    """What is registered of a bundle, absolute: its file, or its folder where it reads other files that lie there.

    The shipped bundle that it may extend is no part of it: that one comes with the product. `BundleError` for a file
    that cannot be read.
    """
    path = bundle_path(bundle).resolve()
    said = read_source(path)
    extends = said.get("extends")
    beside = isinstance(extends, str) and (path.parent / f"{extends}.yaml").is_file()
    return path.parent if said.get("include") or beside else path


def revision_of_bundle(bundle: str | Path) -> str:
    """What `gatehouse rollout register --kind policy` prints for a bundle that lies here, or `BundleError`."""
    root = artefact_path(bundle)
    try:
        files = sums(root)
    except NotPlain as error:
        raise BundleError(f"the candidate {root} holds something that is no plain file: {error.path.name}") from None
    except OSError as error:
        raise BundleError(f"the candidate {root} cannot be read: {error.strerror}") from error
    return revision_of_files(Kind.POLICY, POLICY_TARGET, files)


def check_revision(candidate: CandidateSettings) -> None:
    """`BundleError` unless the files are exactly those of the revision that the configuration names."""
    found = revision_of_bundle(candidate.bundle)
    if found != candidate.revision:
        raise BundleError(
            f"gate.candidate: what lies at {artefact_path(candidate.bundle)} is the revision {found[:12]}, not "
            f"{candidate.revision[:12]}: register it, and name the revision that is printed"
        )


def read_candidate(settings: GateSettings) -> Bundle | None:
    """The candidate as the approval desk knows it: read, checked against its revision and signed; None without one."""
    candidate = settings.candidate
    if candidate is None:
        return None
    check_revision(candidate)
    path = bundle_path(candidate.bundle)
    found = read_policy(path)
    if settings.bundle_key is not None:
        check_signature(found.policy_digest, path, Path(settings.bundle_key))
    check_revision(candidate)  # what was read is what was checked
    return with_tenants(found, settings.tenants)


def load_candidate(settings: GateSettings, marks: Path | None = None) -> Bundle | None:
    """The candidate as it judges calls: with all that `read_candidate` asks, its examples, and the canary held."""
    candidate = settings.candidate
    if candidate is None:
        return None
    check_revision(candidate)
    found = load_live(settings, candidate.bundle, marks)
    check_revision(candidate)
    return found


def load_live(settings: GateSettings, bundle: str | Path, marks: Path | None = None) -> Bundle:
    """A bundle that may judge sessions under these settings, with the names of tenants; else `BundleError`.

    `marks`: see `load_bundle`.
    """
    key = None if settings.bundle_key is None else Path(settings.bundle_key)
    found = with_tenants(load_bundle(bundle, marks, key), settings.tenants)
    check_holds(found)
    return found


def check_holds(bundle: Bundle) -> None:
    """`BundleError` for a bundle under which the canary's call would leave: nobody is given to it."""
    classifier = Classifier(bundle, ShellReader(_PARSER_S))
    tool, arguments = dangerous_call("check")
    for profile in PROFILES:
        found = classifier.classify(tool, arguments, profile)
        if found.outcome is not Outcome.HOLD:
            raise BundleError(
                f"bundle '{bundle.name}': under '{profile.value}' it does not hold the canary's call "
                f"({found.outcome.value}): the gate's own check would raise the alarm"
            )
