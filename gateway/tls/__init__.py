"""TLS (PS3.15 B.12, B.13): contexts, certificates, a site's own authority."""

from __future__ import annotations
