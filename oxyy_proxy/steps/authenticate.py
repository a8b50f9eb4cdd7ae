"""Key → principal. A key is known by its SHA-256 alone; no, unknown, revoked and expired keys get one answer."""

from __future__ import annotations

from hashlib import sha256

from oxyy_proxy.errors import AuthenticationFailed
from oxyy_proxy.rules.types import Policy, Principal


def authenticate(policy: Policy, authorization: str, now: float) -> Principal:
    """Who calls with this `Authorization` header at `now` (epoch seconds). Raises AuthenticationFailed."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationFailed
    digest = sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
    principal = policy.keys.get(digest)
    if principal is None or (principal.key.expires_at is not None and now >= principal.key.expires_at):
        raise AuthenticationFailed
    return principal
