"""Who may do what: nodes and people by certificate, grants, approvals."""

from __future__ import annotations
