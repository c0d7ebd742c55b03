"""The recorded head: how far the log is known to reach. A log that is shorter has lost evidence.

It lies beside the log (`head.json`), so it catches accidents and restored snapshots of a part. Whoever can rewrite
the log can rewrite it too: heads that others keep (`GET /v1/audit/head`) are what binds the operator.
"""

import json
from pathlib import Path
from typing import cast

from deployments.audit.chain import GENESIS
from deployments.audit.files import SYSTEM_DISK, Disk, read_all, replace_file
from deployments.ports import AuditHead

HEAD_FILE = "head.json"
EMPTY = AuditHead(size=0, head_hash=GENESIS.hex())


class BadHead(ValueError):
    """The file is not a head."""


def parse_head(text: str) -> AuditHead:
    """The head in a JSON text with `size` and `head_hash`, or `BadHead`. Further fields are ignored."""
    try:
        found: object = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadHead("it is not JSON") from error
    if not isinstance(found, dict):
        raise BadHead("it is not a JSON object")
    fields = cast("dict[str, object]", found)
    size, head_hash = fields.get("size"), fields.get("head_hash")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise BadHead("'size' is not a count of records")
    if not isinstance(head_hash, str) or len(head_hash) != 64 or head_hash.strip("0123456789abcdef"):
        raise BadHead("'head_hash' is not a SHA-256 in lower-case hex")
    return AuditHead(size=size, head_hash=head_hash)


def read_head(path: Path, disk: Disk = SYSTEM_DISK) -> AuditHead:
    """The head in a file. `FileNotFoundError` or `OSError` when it cannot be read, `BadHead` when it is not one."""
    try:
        return parse_head(read_all(path, disk).decode())
    except UnicodeDecodeError as error:
        raise BadHead("it is not UTF-8") from error


def write_head(directory: Path, head: AuditHead, disk: Disk = SYSTEM_DISK, writer: str = "") -> None:
    """Record a head durably. `writer` tells apart who may do so at the same time."""
    text = json.dumps({"schema": "gatehouse.audit-head/1", "size": head.size, "head_hash": head.head_hash})
    replace_file(directory / HEAD_FILE, text.encode() + b"\n", disk, f".{writer}.new")
