"""Postroom: mail in to programmable mailboxes, mail out through one send API, everything told as it happens."""

__version__ = "0.1.0"
