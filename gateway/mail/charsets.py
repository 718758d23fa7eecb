"""Charset labels as mail uses them, and octets turned into text that Postgres can store.

Labels come from strangers, so they are looked up in this list and never in Python's codec registry: it holds codecs
that take quadratic time (punycode, idna), and remembers every unknown name for ever.
"""

from __future__ import annotations

import re
from typing import Final

_SURROGATE = re.compile("[\ud800-\udfff]")

# Python's codec: the labels that mean it, the wrong but usual ones included (WHATWG Encoding Standard, 4.2).
_LABELS: Final = {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 x-unicode20utf8",
    "utf-7": "utf-7 unicode-1-1-utf-7",
    "utf-16": "utf-16 utf16 unicode ucs-2 iso-10646-ucs-2",
    "utf-16-le": "utf-16le",
    "utf-16-be": "utf-16be",
    "utf-32": "utf-32 utf32",
    "cp1252": "iso-8859-1 iso8859-1 iso_8859-1 latin1 latin-1 l1 windows-1252 cp1252 x-cp1252 ansi",
    "iso8859_2": "iso-8859-2 iso8859-2 latin2 l2",
    "iso8859_3": "iso-8859-3 iso8859-3 latin3",
    "iso8859_4": "iso-8859-4 iso8859-4 latin4",
    "iso8859_5": "iso-8859-5 iso8859-5 cyrillic",
    "iso8859_6": "iso-8859-6 iso-8859-6-i iso-8859-6-e iso8859-6 arabic",
    "iso8859_7": "iso-8859-7 iso8859-7 greek",
    "iso8859_8": "iso-8859-8 iso-8859-8-i iso-8859-8-e iso8859-8 hebrew logical",
    "cp1254": "iso-8859-9 iso8859-9 latin5 windows-1254 cp1254",
    "iso8859_10": "iso-8859-10 iso8859-10",
    "cp874": "iso-8859-11 iso8859-11 tis-620 windows-874 cp874",
    "iso8859_13": "iso-8859-13 iso8859-13",
    "iso8859_14": "iso-8859-14 iso8859-14",
    "iso8859_15": "iso-8859-15 iso8859-15 latin9 latin-9",
    "iso8859_16": "iso-8859-16 iso8859-16",
    "cp1250": "windows-1250 cp1250",
    "cp1251": "windows-1251 cp1251 win-1251",
    "cp1253": "windows-1253 cp1253",
    "cp1255": "windows-1255 cp1255",
    "cp1256": "windows-1256 cp1256",
    "cp1257": "windows-1257 cp1257",
    "cp1258": "windows-1258 cp1258",
    "koi8_r": "koi8-r koi8 koi",
    "koi8_u": "koi8-u koi8-ru",
    "cp437": "ibm437 cp437",
    "cp850": "ibm850 cp850",
    "cp866": "ibm866 cp866",
    "mac_roman": "macintosh mac x-mac-roman",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "gb18030 gb2312 gb_2312-80 gbk x-gbk cp936 windows-936 euc-cn chinese",
    "hz": "hz-gb-2312 hz",
    "big5hkscs": "big5 big5-hkscs cn-big5 x-x-big5 cp950",
    "cp949": "euc-kr ks_c_5601-1987 ks_c_5601-1989 ks_c_5601 cp949 windows-949 korean",
    "iso2022_kr": "iso-2022-kr",
    "cp932": "shift_jis shift-jis sjis x-sjis ms_kanji windows-31j cp932",
    "euc_jp": "euc-jp x-euc-jp",
    "iso2022_jp_2": "iso-2022-jp csiso2022jp iso-2022-jp-1 iso-2022-jp-2",
}
_CODECS: Final = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}
_CODECS.update({label.upper(): codec for label, codec in _CODECS.items()})
_ASCII: Final = frozenset(["us-ascii", "ascii", "ansi_x3.4-1968", "646"])
_PUNCTUATION = re.compile("[^a-z0-9]")
_SQUEEZED: Final = {_PUNCTUATION.sub("", label): codec for label, codec in _CODECS.items()}  # utf_8, cp-1252
_WESTERN: Final = "cp1252"  # what octets that nobody could label rightly most often are
_MAX_LABEL = 64  # characters of a label that are looked at, and repeated


def decode(octets: bytes, label: str | None) -> tuple[str, str | None]:
    """Turn octets into text, and say what is odd about them: a clause for a person, None where nothing is.

    Without a label, or with a wrong one, it is UTF-8 if it can be, else windows-1252. Latin labels do not count where
    the octets are UTF-8: hardly any other text looks like it. Never raises; the text holds no NUL, no lone surrogate.
    """
    codec = _CODECS.get(label or "") or _known(label or "")
    if codec is None or (codec == _WESTERN and not octets.isascii()):
        return _guessed(octets, _named(label or ""), codec)
    try:
        return clean(octets.decode(codec)), None
    except UnicodeError:
        told = f"is not valid {clean(_named(label or ''))}; what is not is shown as \ufffd"
        return clean(octets.decode(codec, "replace")), told


def _named(label: str) -> str:
    return label[:_MAX_LABEL].strip(" \t'\"").lower()


def _known(label: str) -> str | None:
    """The codec of a label that is not written as it should be."""
    name = _named(label)
    if not name or name in _ASCII:
        return None
    return _CODECS.get(name) or _SQUEEZED.get(_PUNCTUATION.sub("", name))


def _guessed(octets: bytes, name: str, codec: str | None) -> tuple[str, str | None]:
    """Octets whose label says too little."""
    try:
        text, read = octets.decode(), "UTF-8"
    except UnicodeError:
        text, read = octets.decode(_WESTERN, "replace"), "windows-1252"
    return clean(text), None if octets.isascii() else _told(name, codec, read)


def _told(name: str, codec: str | None, read: str) -> str | None:
    """What is odd about octets above 127 that were read so."""
    if codec is not None:
        return f"is labelled {name} but is UTF-8" if read == "UTF-8" else None
    if not name:
        return None if read == "UTF-8" else "has no charset and is not UTF-8; it was read as windows-1252"
    if name in _ASCII:
        return f"is labelled {name} but holds 8-bit characters; it was read as {read}"
    return f"has a charset that is not known ({clean(name)}); it was read as {read}"


def clean(text: str) -> str:
    """Replace what Postgres refuses (NUL, lone surrogates) by U+FFFD."""
    text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
