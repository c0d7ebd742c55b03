"""What may be a candidate: exactly what was registered, signed, above the floors, and holding the canary."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import ValidationError

from deployments.gate import candidate as loading
from deployments.gate.bundle import BUNDLE_DIRECTORY
from deployments.gate.candidate import artefact_path, load_candidate, read_candidate, revision_of_bundle
from deployments.gate.deployment import PolicyGate
from deployments.gate.grammar import BundleError
from deployments.gate.name_settings import TenantGateSettings
from deployments.gate.policy import read_policy
from deployments.gate.settings import CandidateSettings, GateSettings, Running
from deployments.gate.signature import sign, signature_path
from deployments.ports import Approval, SessionId
from deployments.rollout.artefacts import scan
from deployments.rollout.plan import revision_of
from deployments.rollouts import POLICY_TARGET, Kind, Slice
from deployments.store import sqlite_url
from tests.unit.gate.test_approvals import AGENT, BOB, PLAN, proposal, seen
from tests.unit.gate.test_deployment import LedgerHandle, Method, SinkHandle
from tests.unit.gate.two_policies import session_of, split

OWN = "version: 1\nname: next\nextends: default\ntargets:\n  namespace: [{match: [night-run], env: nonprod}]\n"


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is remembered that the examples of the shipped bundle have passed: they take their time."""
    return tmp_path_factory.mktemp("state") / "marks"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "next.yaml"
    path.write_text(OWN)
    return path


def settings(candidate: Path, **more: object) -> GateSettings:
    named = CandidateSettings(bundle=str(candidate), revision=revision_of_bundle(candidate))
    return GateSettings(candidate=named, **more)  # type: ignore[arg-type]


def registered(path: Path) -> str:
    """What `gatehouse rollout register --kind policy` prints."""
    return revision_of(scan(Kind.POLICY, POLICY_TARGET, path))


# --- its revision ----------------------------------------------------------------------------------------------------


def test_the_revision_of_a_file_is_what_register_prints(bundle: Path, tmp_path: Path) -> None:
    assert revision_of_bundle(bundle) == registered(bundle)
    assert artefact_path(bundle) == bundle
    link = tmp_path / "link.yaml"
    link.symlink_to(bundle)
    assert revision_of_bundle(link) == registered(link) == registered(bundle)


def test_a_bundle_of_several_files_is_registered_as_its_folder(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(BUNDLE_DIRECTORY, whole)
    assert artefact_path(whole / "default.yaml") == whole
    assert revision_of_bundle(whole / "default.yaml") == registered(whole)
    own = whole / "mine.yaml"
    own.write_text("version: 1\nname: mine\nextends: default\n")  # of the file beside it, not of the shipped one
    assert artefact_path(own) == whole
    before = revision_of_bundle(own)
    (whole / "words.yaml").write_text((whole / "words.yaml").read_text() + "\n# changed\n")
    assert revision_of_bundle(own) != before


def test_a_folder_with_anything_but_plain_files_has_no_revision(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(BUNDLE_DIRECTORY, whole)
    (whole / "elsewhere").symlink_to("/etc/hostname")
    with pytest.raises(BundleError, match="no plain file: elsewhere"):
        revision_of_bundle(whole / "default.yaml")


@pytest.mark.parametrize("revision", ["r2", "", "0" * 63, "0" * 65, "G" * 64])
def test_a_revision_that_is_no_digest_is_refused(revision: str) -> None:
    with pytest.raises(ValidationError):
        CandidateSettings(bundle="next.yaml", revision=revision)


def test_the_revision_in_force_is_no_candidate() -> None:
    with pytest.raises(ValidationError, match="the one of the bundle that is in force"):
        GateSettings(revision="1" * 64, candidate=CandidateSettings(bundle="next.yaml", revision="1" * 64))


# --- what stops the start --------------------------------------------------------------------------------------------


def gate(made: GateSettings, folder: Path, rollouts: object = None) -> PolicyGate:
    return PolicyGate(
        SinkHandle(), LedgerHandle(), sqlite_url(folder / "gate.db"), str(folder / "keys"), made, Running(),
        rollouts=rollouts,
    )  # fmt: skip


def refused(made: GateSettings, folder: Path, why: str) -> None:
    """By a replica of the ingress and by the approval desk alike."""
    with pytest.raises(BundleError, match=why):
        load_candidate(made, folder / "marks")
    with pytest.raises(BundleError, match=why):
        read_candidate(made)


def test_the_approval_desk_does_not_start_with_a_candidate_that_is_refused(bundle: Path, tmp_path: Path) -> None:
    made = settings(bundle)
    bundle.write_text(OWN + "# one more line\n")
    with pytest.raises(BundleError, match="register it, and name the revision that is printed"):
        gate(made, tmp_path)


def test_a_file_that_is_not_what_was_registered(bundle: Path, tmp_path: Path) -> None:
    made = settings(bundle)
    bundle.write_text(OWN + "# one more line\n")
    refused(made, tmp_path, "not " + made.candidate.revision[:12] if made.candidate else "")


def test_a_file_that_is_not_there(bundle: Path, tmp_path: Path) -> None:
    made = settings(bundle)
    bundle.unlink()
    refused(made, tmp_path, "there is no bundle file")


def test_a_bundle_that_is_none(bundle: Path, tmp_path: Path) -> None:
    bundle.write_text("version: 1\nname: next\nextends: default\nsurprise: 1\n")
    refused(settings(bundle), tmp_path, "surprise")


def test_a_bundle_below_the_floors(bundle: Path, tmp_path: Path) -> None:
    bundle.write_text(OWN + "environment: [LD_PRELOAD]\n")
    refused(settings(bundle), tmp_path, "chooses what runs, so no bundle may allow it")


def test_a_bundle_that_makes_the_base_milder(bundle: Path, tmp_path: Path) -> None:
    bundle.write_text(
        OWN + "rules:\n  - {id: a.b, commands: [kubectl delete], class: R0, reason: nothing,"
        " match: [kubectl delete pod x], not_match: [kubectl get pods]}\n"
    )
    refused(settings(bundle), tmp_path, "milder than the base")


def test_a_bundle_that_nobody_or_somebody_else_has_signed(bundle: Path, marks: Path, tmp_path: Path) -> None:
    mine, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = tmp_path / "key.pem"
    public.write_bytes(mine.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    live = tmp_path / "live.yaml"
    live.write_text("version: 1\nname: live\nextends: default\n")
    _sign(live, mine, tmp_path)
    made = settings(bundle, bundle=str(live), bundle_key=str(public))
    refused(made, tmp_path, "the bundle is not signed")
    _sign(bundle, other, tmp_path)
    refused(made, tmp_path, "is not by the key")
    _sign(bundle, mine, tmp_path)
    found = load_candidate(made, marks)
    assert found is not None
    assert found.name == "next"


def _sign(bundle: Path, key: Ed25519PrivateKey, folder: Path) -> None:
    secret = folder / "secret.pem"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    secret.chmod(0o600)
    signature_path(bundle).write_bytes(sign(read_policy(bundle).policy_digest, secret))


def test_a_bundle_that_would_not_hold_the_canary_judges_nobody(
    bundle: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmless: Callable[[str], tuple[str, str]] = lambda mark: ("shell", '{"command":"true"}')  # noqa: E731
    monkeypatch.setattr(loading, "dangerous_call", harmless)
    with pytest.raises(BundleError, match="does not hold the canary's call"):
        load_candidate(settings(bundle), marks)


def test_a_file_that_changes_while_it_is_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings(bundle)
    real = loading.read_policy

    def swapped(path: Path) -> object:
        path.write_text(OWN.replace("night-run", "prod"))
        return real(path)

    monkeypatch.setattr(loading, "read_policy", swapped)
    with pytest.raises(BundleError, match="register it, and name the revision that is printed"):
        read_candidate(made)


def test_it_knows_the_names_of_tenants(bundle: Path, marks: Path) -> None:
    names = TenantGateSettings.model_validate({"targets": {"namespace": [{"match": ["payroll"], "env": "prod"}]}})
    found = load_candidate(settings(bundle, tenants={"acme": names}), marks)
    assert found is not None
    assert found.of("acme").policy_digest != found.policy_digest
    unknown = TenantGateSettings.model_validate({"targets": {"nonsense": [{"match": ["x"], "env": "prod"}]}})
    with pytest.raises(BundleError, match="reads no names of the kind"):
        read_candidate(settings(bundle, tenants={"acme": unknown}))


def test_without_one_nothing_is_loaded(tmp_path: Path) -> None:
    assert load_candidate(GateSettings(), tmp_path) is None
    assert read_candidate(GateSettings()) is None


# --- the deployment --------------------------------------------------------------------------------------------------


class RolloutsHandle:
    """The controller's handle."""

    def __init__(self) -> None:
        self.share = 0
        self.slices = Method(self._slices)
        self.revision = ""

    async def _slices(self) -> list[Slice]:
        return [split(self.share, self.revision)]


@pytest.fixture
async def opened(bundle: Path, tmp_path: Path) -> AsyncIterator[tuple[PolicyGate, RolloutsHandle, str]]:
    made, handle = settings(bundle), RolloutsHandle()
    assert made.candidate is not None
    handle.revision = made.candidate.revision
    found = gate(made, tmp_path, handle)
    yield found, handle, read_policy(bundle).policy_digest
    await found.close()


async def test_the_desk_asks_the_controller_whose_session_it_is(
    opened: tuple[PolicyGate, RolloutsHandle, str],
) -> None:
    desk, handle, digest = opened
    handle.share = 25
    session: SessionId = session_of(True, 25)
    held = await desk.propose(proposal(1, policy=digest, session=session))
    assert isinstance(held, Approval)
    held = await desk.plan(AGENT, held.approval_id, "CHG-1", PLAN)
    handle.share = 0
    with pytest.raises(Exception, match="no longer judged by the policy"):
        await desk.vote(BOB, held.approval_id, seen(held), True, "")
