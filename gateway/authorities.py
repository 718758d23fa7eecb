"""The certificate authorities that this machine trusts, read once in a process: reading them takes some 50 ms.

Each use has a context of its own, since those who speak HTTP write into theirs which protocols they offer. Where the
environment comes to name other files (SSL_CERT_FILE, SSL_CERT_DIR), those are read.
"""

from __future__ import annotations

import functools
import ssl

import httpcore2


def for_http() -> ssl.SSLContext:
    """For clients of HTTP/1.1; not to be changed."""
    return _for_http(ssl.get_default_verify_paths())


def for_smtp() -> ssl.SSLContext:
    """For clients of SMTP; not to be changed."""
    return _for_smtp(ssl.get_default_verify_paths())


@functools.cache
def _for_http(_read: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


@functools.cache
def _for_smtp(_read: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    return ssl.create_default_context()
