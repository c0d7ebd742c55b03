"""`gatehouse audit`: verify, read, prove, copy and witness a log from its files. No server, no Ray."""

import typer

from serve_app.cli import audit_bodies, audit_evidence, audit_export, audit_read, audit_verify, audit_witness

app = typer.Typer(help="Verify, read, prove, export and witness the audit log, offline.", no_args_is_help=True)
for each in (audit_verify, audit_read, audit_export, audit_evidence, audit_witness, audit_bodies):
    each.register(app)
