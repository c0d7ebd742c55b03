"""What was said, for the audit log: a digest always, the words only where the tenant's bodies are kept."""

import hashlib

from deployments.ports import Body, Keeps, TenantId


def body_of(text: str, tenant: TenantId, keeps: Keeps) -> Body:
    """The body of a text as UTF-8. What a model wrote may hold lone surrogates; they stay as they are."""
    data = text.encode("utf-8", "surrogatepass")
    return Body(hashlib.sha256(data).digest(), data if keeps(tenant) else None)
