"""What the plugin's suites have in common."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

DELIVER = """
import smtplib


def deliver(gateway, to, subject, body="…"):
    where = (gateway.host, gateway.port) if hasattr(gateway, "host") else (gateway.smtp_host, gateway.smtp_port)
    with smtplib.SMTP(*where) as smtp:
        letter = f"From: Shop <shop@example.com>\\r\\nTo: {to}\\r\\nSubject: {subject}\\r\\n\\r\\n{body}\\r\\n"
        smtp.sendmail("shop@example.com", [to], letter.encode())
"""


def leftovers() -> set[Path]:
    """Folders of runs that start a gateway of their own."""
    return set(Path(tempfile.gettempdir()).glob(f"postroom-{os.getuid()}-*"))
