"""Tells an answer that refuses who asks from one that refuses what is asked for, where the status does not. Pure."""

import re
from http import HTTPStatus

_NO_ACCESS = {HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE}
"""Gone is a version that has ended."""

_OF_ACCESS = re.compile(
    rb"not (yet )?(available|enabled|entitled|supported|authori[sz]ed|allowed|permitted)|entitlement|permission"
    rb"|no access|have access|unauthori[sz]ed|forbidden|upgrade|your plan|no route|could not route"
    rb"|authenticat|deprecated|discontinued",
    re.IGNORECASE,
)
_OF_PARAMETERS = re.compile(
    rb"parameter|\b(since|before|limit|per_page|page|cursor|direction|range|window|interval|format|value)\b",
    re.IGNORECASE,
)


def is_about_access(status: int, body: bytes) -> bool:
    """True if a 4xx says that this account may not be read this way, by its status or its words.

    Words on parameters count for more: a request of ours that is wrong must not pass for a version that is refused.
    """
    if status in _NO_ACCESS:
        return True
    return bool(_OF_ACCESS.search(body)) and not _OF_PARAMETERS.search(body)
