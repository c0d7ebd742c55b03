"""`gatehouse`: the command line."""

import sys

import typer

from serve_app.cli import (
    approvals,
    approvals_review,
    audit,
    backup,
    bench,
    bench_audit,
    bench_gate,
    bench_more,
    budgets,
    bundle,
    canary,
    change,
    client_config,
    db,
    demo,
    doctor,
    drill,
    gate,
    guardrails,
    incident,
    keys,
    manifests,
    permits,
    policy,
    rollout,
    route,
    router,
    schema,
    size,
    status,
    tenants,
    up,
    usage,
)

app = typer.Typer(
    help="Gatehouse: self-hosted LLM serving, routed, gated and audited.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("doctor")(doctor.doctor)
app.command("status")(status.status)
app.command("schema")(schema.schema)
app.command("serve-config")(schema.serve_config)
app.command("check-config")(schema.check_config)
app.command("client-config")(client_config.client_config)
app.add_typer(keys.app, name="keys")
app.add_typer(budgets.app, name="budgets")
app.add_typer(usage.app, name="usage")
app.add_typer(tenants.app, name="tenants")
approvals_review.register(approvals.app)
app.add_typer(approvals.app, name="approvals")
app.add_typer(gate.app, name="gate")
app.add_typer(guardrails.app, name="guardrails")
app.add_typer(permits.app, name="permits")
app.add_typer(policy.app, name="policy")
app.add_typer(route.app, name="route")
app.add_typer(router.app, name="router")
app.add_typer(rollout.app, name="rollout")
app.add_typer(audit.app, name="audit")
app.add_typer(canary.app, name="canary")
app.add_typer(change.app, name="change")
app.add_typer(incident.app, name="incident")
drill.app.command("restore")(backup.drill)
app.add_typer(drill.app, name="drill")
app.add_typer(db.app, name="db")
app.add_typer(backup.app, name="backup")
app.add_typer(bundle.app, name="bundle")
app.command("restore")(backup.restore)
app.add_typer(demo.app, name="demo")
app.add_typer(manifests.app, name="manifests")
bench_more.register(bench.app)
bench_audit.register(bench.app)
bench_gate.register(bench.app)
app.add_typer(bench.app, name="bench")
app.add_typer(size.app, name="size")


def run() -> None:
    """The `gatehouse` script."""
    try:
        app()
    except BrokenPipeError:  # `gatehouse audit show | head`
        sys.stderr.close()
        sys.exit(141)
