"""What AWS's error codes mean: one table for each of the three places where a code can stand.

What to do about a meaning is for the reader: `retry` for the wire, `sqs.batches` for an entry,
`dynamodb.writers` for a statement, `explanations` for what the operator has to mend.

Sources: the API references ("Common Errors", each operation's "Errors", BatchStatementError);
"Retry behavior", AWS SDKs and Tools Reference Guide; botocore 1.44.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import Final


class Meaning(Flag):
    """A code may have several: `if meaning_of(code) & (Meaning.A | Meaning.B)`."""

    UNKNOWN = 0
    THROTTLED = auto()
    TRANSIENT = auto()
    """The service's own trouble: another try may help."""
    CLOCK_REFUSED = auto()
    """The time that the request was signed for is not the service's."""
    SIGNATURE_REFUSED = auto()
    """Wrong keys, or a wrong clock: the message or the clocks' difference tells."""
    CREDENTIALS_EXPIRED = auto()
    SIGNED_TOO_LONG_AGO = auto()
    IDENTITY_UNKNOWN = auto()
    """The credentials may have been replaced at their source."""
    CREDENTIALS_WRONG = auto()
    """For the operator to mend, where nothing has replaced them."""
    ACCESS_DENIED = auto()
    QUEUE_MISSING = auto()
    ADDRESS_INVALID = auto()
    TABLE_MISSING = auto()
    """Or an index of it."""
    OPERATION_UNKNOWN = auto()
    """What answers is another service, or a server that knows less."""
    ENTRY_REFUSED = auto()
    """A whole batch is refused for what may be wrong with one entry alone."""
    RECEIPT_INVALID = auto()
    PARAMETER_INVALID = auto()
    """Which one, the message says: a receipt among them."""
    PURGE_IN_PROGRESS = auto()
    CONDITION_FAILED = auto()
    ITEM_INVALID = auto()
    """The item, the statement or the request itself; for a table, that it is not as expected."""


REQUEST_ERRORS: Final[dict[str, Meaning]] = {
    # Both services, and the front that signs, counts and throttles before them.
    "AccessDenied": Meaning.ACCESS_DENIED,
    "AccessDeniedException": Meaning.ACCESS_DENIED,
    "AuthFailure": Meaning.SIGNATURE_REFUSED | Meaning.IDENTITY_UNKNOWN,
    "AuthorizationError": Meaning.ACCESS_DENIED,
    "BandwidthLimitExceeded": Meaning.THROTTLED,
    "ExpiredToken": Meaning.CREDENTIALS_EXPIRED,
    "ExpiredTokenException": Meaning.CREDENTIALS_EXPIRED,
    "IncompleteSignature": Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG,
    "InternalFailure": Meaning.TRANSIENT,
    "InternalServerError": Meaning.TRANSIENT,
    "InvalidAccessKeyId": Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG,
    "InvalidAction": Meaning.OPERATION_UNKNOWN,
    "InvalidClientTokenId": Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG,
    "InvalidSecurity": Meaning.CREDENTIALS_WRONG,
    "InvalidSignature": Meaning.SIGNATURE_REFUSED | Meaning.IDENTITY_UNKNOWN,
    "InvalidSignatureException": (
        Meaning.SIGNATURE_REFUSED | Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG
    ),
    "LimitExceededException": Meaning.THROTTLED,
    "MissingAuthenticationToken": Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG,
    "MissingAuthenticationTokenException": Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG,
    "NotAuthorized": Meaning.IDENTITY_UNKNOWN,
    "OptInRequired": Meaning.CREDENTIALS_WRONG,
    "PriorRequestNotComplete": Meaning.THROTTLED,
    "RequestExpired": Meaning.CLOCK_REFUSED | Meaning.SIGNED_TOO_LONG_AGO,
    "RequestInTheFuture": Meaning.CLOCK_REFUSED,
    "RequestLimitExceeded": Meaning.THROTTLED,
    "RequestThrottled": Meaning.THROTTLED,
    "RequestThrottledException": Meaning.THROTTLED,
    "RequestTimeTooSkewed": Meaning.CLOCK_REFUSED,
    "RequestTimeout": Meaning.TRANSIENT,
    "RequestTimeoutException": Meaning.TRANSIENT,
    "ServiceUnavailable": Meaning.TRANSIENT,
    "SignatureDoesNotMatch": (
        Meaning.SIGNATURE_REFUSED | Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG
    ),
    "SlowDown": Meaning.THROTTLED,
    "ThrottledException": Meaning.THROTTLED,
    "Throttling": Meaning.THROTTLED,
    "ThrottlingException": Meaning.THROTTLED,
    "TokenRefreshRequired": Meaning.CREDENTIALS_EXPIRED,
    "TooManyRequestsException": Meaning.THROTTLED,
    "UnauthorizedOperation": Meaning.ACCESS_DENIED,
    "UnknownOperation": Meaning.OPERATION_UNKNOWN,
    "UnknownOperationException": Meaning.OPERATION_UNKNOWN,
    "UnrecognizedClientException": Meaning.IDENTITY_UNKNOWN | Meaning.CREDENTIALS_WRONG,
    # SQS.
    "BatchRequestTooLong": Meaning.ENTRY_REFUSED,
    "InvalidAddress": Meaning.ADDRESS_INVALID,
    "InvalidAttributeValue": Meaning.ENTRY_REFUSED,
    "InvalidMessageContents": Meaning.ENTRY_REFUSED,
    "InvalidParameterValue": Meaning.ENTRY_REFUSED | Meaning.PARAMETER_INVALID,
    "KMS.AccessDeniedException": Meaning.ACCESS_DENIED,
    "KmsAccessDenied": Meaning.ACCESS_DENIED,
    "KmsThrottled": Meaning.THROTTLED,
    "MessageTooLong": Meaning.ENTRY_REFUSED,
    "PurgeQueueInProgress": Meaning.PURGE_IN_PROGRESS,
    "QueueDoesNotExist": Meaning.QUEUE_MISSING,
    "ReceiptHandleIsInvalid": Meaning.ENTRY_REFUSED | Meaning.RECEIPT_INVALID,
    # DynamoDB. It has two names for throttling: this one for a table's own limits.
    "ConditionalCheckFailedException": Meaning.CONDITION_FAILED,
    "ProvisionedThroughputExceededException": Meaning.THROTTLED,
    "ReplicatedWriteConflictException": Meaning.TRANSIENT,
    "ResourceNotFoundException": Meaning.TABLE_MISSING,
    "TransactionInProgressException": Meaning.THROTTLED,
    "ValidationException": Meaning.ITEM_INVALID,
}
"""The error of a whole request."""

ENTRY_ERRORS: Final[dict[str, Meaning]] = {
    **{code: meaning for code, meaning in REQUEST_ERRORS.items() if meaning is Meaning.THROTTLED},
    "InternalError": Meaning.TRANSIENT,
    "InternalFailure": Meaning.TRANSIENT,
    "InvalidParameterValue": Meaning.PARAMETER_INVALID,
    "MessageNotInflight": Meaning.RECEIPT_INVALID,
    "OverLimit": Meaning.TRANSIENT,
    "ReceiptHandleIsInvalid": Meaning.RECEIPT_INVALID,
    "ServiceUnavailable": Meaning.TRANSIENT,
}
"""The `Code` of one entry of an SQS batch."""

STATEMENT_ERRORS: Final[dict[str, Meaning]] = {
    "AccessDenied": Meaning.ACCESS_DENIED,
    "ConditionalCheckFailed": Meaning.CONDITION_FAILED,
    "DuplicateItem": Meaning.CONDITION_FAILED,
    "InternalServerError": Meaning.TRANSIENT,
    "ItemCollectionSizeLimitExceeded": Meaning.ITEM_INVALID,
    "ProvisionedThroughputExceeded": Meaning.THROTTLED,
    "RequestLimitExceeded": Meaning.THROTTLED,
    "ResourceNotFound": Meaning.TABLE_MISSING,
    "ThrottlingError": Meaning.THROTTLED,
    "TransactionConflict": Meaning.TRANSIENT,
    "ValidationError": Meaning.ITEM_INVALID,
}
"""The `Code` of one statement of DynamoDB's BatchExecuteStatement."""

# SQS had other names for its errors before it spoke JSON; some servers still use them.
_FORMER_NAMES = {
    "NonExistentQueue": "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue": "QueueDoesNotExist",
    "AWS.SimpleQueueService.TooManyEntriesInBatchRequest": "TooManyEntriesInBatchRequest",
    "AWS.SimpleQueueService.BatchRequestTooLong": "BatchRequestTooLong",
    "AWS.SimpleQueueService.PurgeQueueInProgress": "PurgeQueueInProgress",
    "AWS.SimpleQueueService.QueueDeletedRecently": "QueueDeletedRecently",
    "QueueAlreadyExists": "QueueNameExists",
}


def meaning_of(code: str) -> Meaning:
    """Of a request's error."""
    return REQUEST_ERRORS.get(code, Meaning.UNKNOWN)


def meaning_of_entry(code: str) -> Meaning:
    return ENTRY_ERRORS.get(code, Meaning.UNKNOWN)


def meaning_of_statement(code: str) -> Meaning:
    return STATEMENT_ERRORS.get(code, Meaning.UNKNOWN)


def present_name(code: str) -> str:
    """The code's name in today's API."""
    return _FORMER_NAMES.get(code, code)
