"""How often a JPEG goes over its picture.

A progressive JPEG is refined scan by scan, usually in ten. Nothing limits their number: a scan that
refines nothing takes 75 bytes and as long to decode as any other.
"""

from __future__ import annotations

import re

# A marker (ITU T.81, section B.1.1.2): one or more bytes FF and a code. FF 00 is data; FF D0 to D7
# are restarts, which stand in the data.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.S)

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9

# Markers that no segment follows: TEM, and the start of the image.
_ALONE = frozenset({0x01, 0xD8})


def has_more_scans_than(data: bytes, limit: int) -> bool:
    """Whether the first picture in `data` has; what lies behind its end (a video, previews) does
    not count."""
    scans = 0
    position = 0
    while (marker := _MARKER.search(data, position)) is not None:
        code = marker[1][0]
        position = marker.end()
        if code == _END_OF_IMAGE:
            return False
        if code in _ALONE:
            continue
        if code == _START_OF_SCAN:
            scans += 1
            if scans > limit:
                return True
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return False
