"""File names of strangers, as every system can save them."""

from __future__ import annotations

import urllib.parse

import pytest

from gateway.web import parts


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("report.pdf", "report.pdf"),
        ("Résumé 2026 (final).pdf", "Résumé 2026 (final).pdf"),
        ("Re\u0301sume\u0301.pdf", "Résumé.pdf"),
        ("日本語.txt", "日本語.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\evil.exe", "evil.exe"),
        ("\\\\server\\share\\x.doc", "x.doc"),
        ("/", "attachment"),
        ("", "attachment"),
        ("..", "attachment"),
        (" . ", "attachment"),
        (".htaccess", "htaccess"),
        ("name.txt. . ", "name.txt"),
        ("a\r\nSet-Cookie: x=y.txt", "a Set-Cookie_ x=y.txt"),
        ("a\0b.txt", "ab.txt"),
        ("a\u2028b.txt", "a b.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("a\u200b\u2066b\ufeff.txt", "ab.txt"),
        ("a\ud800b.txt", "a_b.txt"),
        ('a"b<c>d|e?f*g:h.txt', "a_b_c_d_e_f_g_h.txt"),
        ("file.txt:stream", "file.txt_stream"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("com1", "_com1"),
        ("LPT9.tar.gz", "_LPT9.tar.gz"),
        ("console.txt", "console.txt"),
        ("AUX .txt", "_AUX.txt"),
    ],
)
def test_a_name_is_one_that_every_system_can_save(given: str, saved: str) -> None:
    assert parts.safe_name(given) == saved
    assert parts.safe_name(saved) == saved


@pytest.mark.parametrize("extension", [".pdf", ".tar.gz", ".日本語", "." + "x" * 300, ""])
@pytest.mark.parametrize("stem", ["x" * 400, "ü" * 400, "日" * 400, "x. " * 200])
def test_a_long_name_is_cut_and_keeps_its_extension(stem: str, extension: str) -> None:
    name = parts.safe_name(stem + extension)
    assert 0 < len(name) <= 150
    assert len(name.encode()) <= 255
    assert not name.endswith((".", " "))
    if 0 < len(extension) < 20:
        assert name.endswith(extension.rpartition(".")[1] + extension.rpartition(".")[2])


def test_both_kinds_of_readers_are_told_the_name() -> None:
    assert parts.parameters("Grüße.pdf") == "filename=\"Gr__e.pdf\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.pdf"
    for name in ('a"; filename=evil.exe', "a\\b;c=d", "a\r\nb", "%2e%2e%2f", "'x'.txt"):
        written = parts.parameters(name)
        plain, _, extended = written.partition("; filename*=UTF-8''")
        assert plain.count('"') == 2
        assert written.isprintable()
        assert urllib.parse.unquote(extended) == parts.safe_name(name)
