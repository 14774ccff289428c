"""Text that people wrote with whatever editor they have: TOML, YAML, XML, JSON.

Windows editors put a byte order mark before UTF-8 or write UTF-16, and end lines with CR and LF; all of that is read. Other
encodings are not guessed, since a wrong guess changes names and titles without a word.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from caloforge.errors import CaloForgeError

__all__ = ["LARGEST", "decoded", "read_text"]

#: Descriptions are a few kB, the largest reports a few MB; nobody writes more by hand.
LARGEST = 64 * 2**20
#: The longer marks first: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_XML_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]*\bencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["']""")


def read_text(path: Path, error: type[CaloForgeError], *, xml: bool = False) -> str:
    """The text of a file, its lines ended by LF.

    Args:
        path: the file.
        error: what to raise.
        xml: whether the file may name its encoding as XML does.

    Raises:
        CaloForgeError: of the class ``error``, if the file does not exist, cannot be read, is larger than 64 MB, or is in
            an encoding that it does not state.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise error(f"{path}: there is no such file") from None
    except OSError as failure:
        raise error(f"{path}: cannot be read ({(failure.strerror or str(failure)).lower()})") from None
    if len(content) > LARGEST:
        raise error(f"{path}: is larger than {LARGEST // 2**20} MB, so it is no text file of the kind expected here")
    return decoded(content, str(path), error, xml=xml)


def decoded(content: bytes, where: str, error: type[CaloForgeError], *, xml: bool = False) -> str:
    """Bytes as text; see :func:`read_text`."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    stated = _XML_ENCODING.match(content) if xml and encoding == "utf-8" else None
    if stated is not None:
        encoding = stated[1].decode("ascii")
    try:
        text = content.decode(encoding)
    except LookupError:
        raise error(f"{where}: states the encoding '{encoding}', which is not known") from None
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        guess = ", perhaps Latin-1 or Windows-1252" if encoding == "utf-8" and b"\0" not in content else ""
        shown = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise error(
            f"{where}: is not {shown} (byte 0x{content[failure.start]:02x} in line {line}{guess}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise error(f"{where}: is no text, or UTF-16 without a byte order mark; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
