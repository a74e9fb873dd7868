"""Pieces of site files without TLS, on loopback."""

from __future__ import annotations

import json


def plain_nodes(**roles: list[str]) -> str:
    """``[[nodes]]`` tables: AE title -> roles; the name is the title's lower case."""
    return "\n".join(
        f"""[[nodes]]
name = "{title.lower()}"
ae_titles = ["{title}"]
roles = {json.dumps(own)}
plain = true
addresses = ["127.0.0.1/32"]
"""
        for title, own in roles.items()
    )


def plain_places(**ports: int) -> str:
    """``[[recovery.destinations]]`` tables: AE title -> port."""
    return "\n".join(
        f"""[[recovery.destinations]]
ae_title = "{title}"
host = "127.0.0.1"
port = {port}
plain = true
"""
        for title, port in ports.items()
    )
