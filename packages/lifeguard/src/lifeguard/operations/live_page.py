"""The page of `/pool/live`: one file that loads nothing else, under a policy that allows nothing else."""

from __future__ import annotations

from pathlib import Path

from lifeguard.operations import csp

HTML = Path(__file__).with_name("live.html").read_text(encoding="utf-8")
HEADERS = csp.policy(
    connect_src="'self'", script_src=csp.inline(HTML, "script"), style_src=csp.inline(HTML, "style")
)
