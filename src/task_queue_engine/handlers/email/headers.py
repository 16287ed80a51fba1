"""Header fields as bytes, written out here and by no parser.

The standard library's `email` reads a value before it writes it: what looks like an encoded word
(RFC 2047) is decoded first, and depending on its version the line ends in there reach the mail.
Here text is only ever encoded. What goes out literally is printable ASCII without `=?`, everything
else base64, so that no line end but those of the folding can come about.
"""

from __future__ import annotations

import base64
import re
import textwrap
from collections.abc import Iterable

from task_queue_engine.handlers.email.addresses import ENCODED_WORD_START, Address

# Words of printable ASCII with one space between them; the parts of a phrase that need no quotes
# ("atoms", RFC 5322, section 3.2.3).
_WORDS = re.compile(r"[!-~]+(?: [!-~]+)*")
_ATOMS = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?: [\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
_PRINTABLE_ASCII = re.compile(r"[ -~]*")

# Characters of a line, as it should be and not as it may be (RFC 5322, section 2.1.1).
_LINE = 78

# Bytes of UTF-8 in an encoded word, which has 75 characters at most (RFC 2047, section 2): 45
# make 60 of base64, and 12 are around them.
_WORD_BYTES = 45


def field(name: str, value: str) -> bytes:
    """One header field; `value` comes from this module, or is known to be safe."""
    return f"{name}: {value}\r\n".encode()


def unstructured(text: str, *, after: int) -> str:
    """A text such as a subject.

    Args:
        text: what the reader is to see; without control characters (`check_header_text`).
        after: characters that stand before it on its first line.
    """
    literal = not text or _WORDS.fullmatch(text)
    if (
        literal
        and ENCODED_WORD_START not in text
        and max(map(len, text.split(" "))) < _LINE - after
    ):
        lines = textwrap.wrap(
            text,
            _LINE,
            initial_indent=" " * after,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
        return "\r\n ".join(lines)[after:]
    return _encoded(text)


def mailboxes(addresses: Iterable[Address]) -> str:
    """One a line."""
    return ",\r\n ".join(map(_mailbox, addresses))


def _mailbox(address: Address) -> str:
    bare = f"{address.local_part}@{address.ascii_domain}"
    return f"{_phrase(address.display_name)} <{bare}>" if address.display_name else bare


def _phrase(name: str) -> str:
    if ENCODED_WORD_START in name or len(name) > _LINE or not _PRINTABLE_ASCII.fullmatch(name):
        return _encoded(name)
    if _ATOMS.fullmatch(name):
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def _encoded(text: str) -> str:
    """Encoded words, a line each. No character is split between two of them."""
    words: list[bytes] = []
    word = b""
    for char in text:
        data = char.encode()
        if len(word) + len(data) > _WORD_BYTES:
            words.append(word)
            word = b""
        word += data
    words.append(word)
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in words)
