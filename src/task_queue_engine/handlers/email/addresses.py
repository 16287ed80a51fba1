"""Mail addresses and other text bound for a mail header."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Not deliverable on the Internet (RFC 6761, RFC 6762), which is why email-validator refuses them,
# but relays inside a company and on a developer's machine do deliver to them.
_PRIVATE_DOMAINS = frozenset({"local", "localhost", "test"})

_NAMED = re.compile(r'(?P<name>"(?:[^"\\]|\\.)*"\s*|[^<>"]*)<(?P<address>[^<>]*)>')

MAX_LENGTH = 512
"""Characters with the name; the address itself has at most 254 (RFC 5321)."""


ENCODED_WORD_START = "=?"
"""What begins an encoded word in a header (RFC 2047)."""


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox, checked for syntax."""

    display_name: str
    local_part: str
    ascii_domain: str
    """Punycode where the domain is internationalised (RFC 5891): every server takes that."""

    @property
    def envelope(self) -> str:
        """As MAIL FROM and RCPT TO want it, without angle brackets."""
        return f"{self.local_part}@{self.ascii_domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Only a server with SMTPUTF8 (RFC 6531) takes a local part that is not ASCII."""
        return not self.local_part.isascii()


# A payload's are parsed to check it, to count its mailboxes and to send it: a tenth of a
# millisecond each.
@lru_cache(maxsize=1024)
def parse_address(text: str) -> Address:
    """``user@example.com`` or ``Name <user@example.com>``; the syntax is checked, not the mailbox.

    Raises ValueError with the reason.
    """
    # Only here: most starts of a program that knows the task type see no address.
    from email_validator import EmailNotValidError, validate_email

    if len(text) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters")
    check_header_text(text)
    name, bare = "", text.strip()
    if named := _NAMED.fullmatch(bare):
        name, bare = named["name"].strip(), named["address"]
        if name.startswith('"'):
            name = re.sub(r"\\(.)", r"\1", name[1:-1])
    private = bare.rpartition("@")[2].rpartition(".")[2].lower() in _PRIVATE_DOMAINS
    try:
        valid = validate_email(
            # The same syntax, under a domain that the library does not refuse for its name.
            f"{bare}.example" if private else bare,
            check_deliverability=False,
            globally_deliverable=False,
            strict=True,
        )
    except EmailNotValidError as error:
        raise ValueError(f"is not a mail address: {error!s:.200}") from None
    if ENCODED_WORD_START in valid.local_part:
        # Allowed by RFC 5322 and used by no mailbox; many programs decode it on the way.
        raise ValueError("is not a mail address: it contains '=?', which begins an encoded word")
    domain = valid.ascii_domain.removesuffix(".example") if private else valid.ascii_domain
    return Address(name, valid.local_part, domain)


def check_header_text(text: str) -> None:
    """Raises ValueError for what could end a header line and begin another (header injection,
    CWE-93): control characters, CR, LF and NUL among them, and Unicode's line separators, which
    some software takes for line ends. Lone surrogates are not text at all.
    """
    for char in text:
        if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs"):
            raise ValueError(
                f"contains the control character U+{ord(char):04X}, "
                "which must not reach a mail header"
            )
