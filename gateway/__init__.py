"""Postroom: mail in to programmable mailboxes, mail out through one send API, everything told as it happens."""
