"""Content negotiation by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


@dataclass(frozen=True, slots=True)
class Offer:
    """A media type the server can send."""

    media_type: str
    parameters: dict[str, str] = field(default_factory=dict)


def choose(accept: str | None, offers: Sequence[Offer]) -> Offer:
    """The offer the client likes best; the first of equals, and the first where none will do
    (which RFC 9110 allows in place of 406, and which is kinder to people with a browser)."""
    if accept is None or not accept.strip():
        return offers[0]
    ranges = [_parse_range(part) for part in accept.split(",") if part.strip()]
    return max(offers, key=lambda offer: _quality(offer, ranges))


def _parse_range(text: str) -> tuple[str, dict[str, str], float]:
    media_type, *pairs = (part.strip() for part in text.split(";"))
    parameters: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"')
    weight = parameters.pop("q", "1")
    quality = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return media_type.lower(), parameters, quality


def _quality(offer: Offer, ranges: Sequence[tuple[str, dict[str, str], float]]) -> float:
    """That of the most specific range the offer falls into; 0 if it falls into none."""
    best = (-1, 0.0)
    kind = offer.media_type.partition("/")[0]
    for media_type, parameters, quality in ranges:
        if media_type == offer.media_type:
            relevant = {name: value for name, value in parameters.items() if name != "charset"}
            if any(offer.parameters.get(name) != value for name, value in relevant.items()):
                continue
            specificity = 2 + len(relevant)
        elif media_type == f"{kind}/*":
            specificity = 1
        elif media_type == "*/*":
            specificity = 0
        else:
            continue
        best = max(best, (specificity, quality))
    return best[1]
