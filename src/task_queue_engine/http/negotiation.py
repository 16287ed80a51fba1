"""Content negotiation by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_options_header


def choose(accept: MIMEAccept, offers: Sequence[str]) -> str:
    """The content type the client likes best; the first of equals, and the first where none will do
    (which RFC 9110 allows in place of 406, and which a browser can show)."""
    return max(offers, key=lambda offer: _quality(accept, offer))


def _quality(accept: MIMEAccept, offer: str) -> float:
    """That of the most specific range the offer falls into; 0 if it falls into none.

    Not `MIMEAccept.quality`, which takes a range without parameters for another media type.
    """
    media_type, parameters = parse_options_header(offer)
    best = (-3, 0, 0.0)  # below */*, the least specific, which has two asterisks
    for accepted, quality in accept:
        media_range, wanted = parse_options_header(accepted)
        wanted.pop("charset", None)  # all answers are UTF-8, whatever is asked for
        if (
            MIMEAccept([(media_range, 1)]).quality(media_type)
            and wanted.items() <= parameters.items()
        ):
            best = max(best, (-media_range.count("*"), len(wanted), quality))
    return best[2]
