"""What a configuration says is to be backed up."""

from importlib.metadata import version

from deployments.gate.bundle import bundle_path
from serve_app.backups.take import Source
from serve_app.config import ServeFile, find
from serve_app.stores import databases


def source_of(file: ServeFile) -> Source:
    """The state of an installation by its Serve config file; `ConfigError` when a policy it names is not there."""
    config = file.app
    candidate = None if config.gate.candidate is None else config.gate.candidate.bundle
    bundles = [each for each in (config.gate.bundle, config.gate.shadow_bundle, candidate) if each is not None]
    return Source(
        state=config.state_path,
        databases=databases(config),
        audit=config.audit,
        policies=sorted({find(config.routing_policy), *(find(str(bundle_path(name))) for name in bundles)}),
        serve_file=file.path,
        profile=config.profile,
        code_version=version("gatehouse-serving"),
    )
