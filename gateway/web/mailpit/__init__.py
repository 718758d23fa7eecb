"""Mailpit's API, for tests and helpers that were written for it; see docs/mailpit.md for what it offers.

asking    Mailpit's search language, read
showing   Mailpit's shapes of lists and messages
sending   POST /send: a message put into the account's mailboxes
desk      the routes: who asks, what for, and what is refused how
"""
