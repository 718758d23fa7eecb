"""The certificate authorities that this machine trusts, read once in a process: reading them takes some 50 ms.

Each use has a context of its own, since those who speak HTTP write into theirs which protocols they offer.
"""

from __future__ import annotations

import functools
import ssl

import httpcore2


@functools.cache
def for_http() -> ssl.SSLContext:
    """For clients of HTTP/1.1; not to be changed."""
    return httpcore2.default_ssl_context()


@functools.cache
def for_smtp() -> ssl.SSLContext:
    """For clients of SMTP; not to be changed."""
    return ssl.create_default_context()
