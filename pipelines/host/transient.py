"""Errors that can pass by themselves (exit 75), and those that need an operator (exit 1). Decided here alone.

An error is judged by what the system, PostgreSQL or the S3 store calls it, never by its words. If that leaves it open,
the error counts as passing: libpq gives no SQLSTATE for a failed connection, be it a wrong password or a restart.
"""

import errno
from typing import Any

from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

_LASTING_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,  # of a folder of ours: it is there, and is none
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSYS,
}

_PASSING_SQLSTATES = ("08", "25", "40", "53", "55", "57", "58", "XX000")
"""Connection, a server that only reads for now, deadlock, resources, locks and objects in use, an operator's restart,
the system, internal: all others blame what was asked, what is there, or the rights."""

_LASTING_S3_STATUSES = {301, 400, 401, 403, 404, 405, 411, 501}
_PASSING_S3_CODES = {
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "NoSuchKey",
    "NoSuchUpload",
    "IncompleteBody",
    "BadDigest",
}
"""Codes that can pass in spite of their status."""

_LASTING_BOTOCORE = {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "InvalidRegionError"}

_WRONG_KINDS = {
    errno.EEXIST: "it is there, and is no folder",
    errno.ENOTDIR: "what stands above it is no folder",
    errno.EISDIR: "it is a folder",
}

HINT_OF_SYSTEM = "see what it is, its rights and space, or set DATA_DIR"
"""For an error of the system about a file of ours."""


class WrongUsageError(Exception):
    """The settings are wrong, or what was asked for makes no sense (exit 2). Nothing was touched."""


def exit_code_of(*errors: BaseException) -> int:
    """A command's exit code after these errors: 0 none, 2 wrong usage or settings, 75 all can pass, 1 otherwise."""
    if not errors:
        return 0
    if any(isinstance(error, WrongUsageError) for error in errors):
        return 2
    return 75 if all(map(can_pass, errors)) else 1


def can_pass(error: BaseException) -> bool:
    """True if trying again later may be all there is to do."""
    if isinstance(error, AuditLogsError):
        return isinstance(error, TemporaryError)
    if (answer := _s3_answer(error)) is not None:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return answer.get("Error", {}).get("Code") in _PASSING_S3_CODES or status not in _LASTING_S3_STATUSES
    if type(error).__module__.startswith("botocore."):
        return type(error).__name__ not in _LASTING_BOTOCORE
    if isinstance(error, OSError):
        return not isinstance(error, PermissionError) and error.errno not in _LASTING_ERRNOS
    if hasattr(error, "sqlstate") or hasattr(error, "pgcode"):
        sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        return sqlstate is None or sqlstate.startswith(_PASSING_SQLSTATES)
    return isinstance(error, MemoryError)


def words_of_system(error: OSError) -> str:
    """The system's words for an error, with the file if it is about one."""
    if error.filename is None:
        return str(error)
    return f"{error.filename} cannot be used: {_WRONG_KINDS.get(error.errno or 0) or error.strerror}"


def _s3_answer(error: BaseException) -> dict[str, Any] | None:
    """The answer of an S3 store; s3fs translates botocore's errors and keeps them as the cause."""
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, dict) else None
