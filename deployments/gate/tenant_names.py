"""What a tenant's settings make stricter: names of its own in the words of a bundle, added to every bundle.

    gate:
      tenants:
        acme:
          targets:
            namespace: [{match: [payroll, "payroll-*"], env: prod, sensitivity: sensitive}]
            database:  [{match: [ledger], class: R3}]

A name is what the bundle says of it and what each line that fits says, the stricter in every respect: lines add up in
no order. A line can only raise, and `Classifier` judges by the bundle alone besides and takes the higher class, so that
no line lowers one by accident either. The bundle of each tenant has a digest of its own, which its records and
approvals carry: where a line changes, a request that waits must be proposed again.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import translate

import rfc8785

from deployments.gate.grammar import BundleError, class_of
from deployments.gate.name_settings import NamesSettings, TenantGateSettings
from deployments.gate.policy import Bundle, Raising
from deployments.gate.roles import DATABASE
from deployments.gate.specs import Target
from deployments.gate.tables import Egress, Env, Sensitivity


def with_tenants(bundle: Bundle, tenants: Mapping[str, TenantGateSettings]) -> Bundle:
    """The bundle, which also knows what it is for each of the tenants; `BundleError` for a kind that nothing reads."""
    known = {*bundle.targets, DATABASE}
    faults = [
        f"gate.tenants.{tenant}.targets: the policy '{bundle.name}' reads no names of the kind '{kind}', only of "
        f"{', '.join(sorted(known))}"
        for tenant, settings in tenants.items()
        for kind in settings.targets
        if kind not in known
    ]
    if faults:
        raise BundleError("; ".join(faults))
    named = {tenant: settings for tenant, settings in tenants.items() if any(settings.targets.values())}
    return replace(bundle, tenants={tenant: _with_names(bundle, settings) for tenant, settings in named.items()})


def digests(bundle: Bundle) -> Mapping[str, str]:
    """By tenant, the digest under which its calls are judged; tenants for whom the bundle's own counts are left out."""
    return {tenant: own.policy_digest for tenant, own in bundle.tenants.items()}


def _with_names(bundle: Bundle, settings: TenantGateSettings) -> Bundle:
    said = {"base": bundle.policy_digest, "names": settings.model_dump(mode="json", by_alias=True)}
    digest = hashlib.sha256(rfc8785.dumps(said)).hexdigest()
    raising = {kind: tuple(map(_raising, lines)) for kind, lines in settings.targets.items() if lines}
    return replace(bundle, policy_digest=digest, raising=raising)


def _raising(line: NamesSettings) -> Raising:
    matcher = re.compile("|".join(f"(?:{translate(pattern)})" for pattern in line.match))
    target = Target(
        env=None if line.env is None else Env(line.env),
        sensitivity=Sensitivity(line.sensitivity or "normal"),
        egress=Egress(line.egress or "none"),
        class_of=None if line.class_ is None else class_of(line.class_),
    )
    return Raising(line.match, matcher, target)
