"""Requests that a server refuses because of their signature, and that are worth signing again.

The client asks its ``needs-retry`` handlers about each answer; 0 lets it sign the request again and repeat it
at once. Each reason is tried once for a request, so that an answer that stays the same is raised.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from copy import copy  # noqa: TID251 - of a botocore.config.Config, which has its __dict__
from typing import TYPE_CHECKING, Any

from botocore.credentials import Credentials

from puller.store.s3.differences import (
    READ_AGAIN,
    SIGNED_AGAIN,
    SIGNED_BODIES,
    Differences,
    other_region,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_REFUSALS = frozenset({400, 401, 403, 501})
_TOO_OLD = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"}
)
_UNSIGNED = frozenset(
    {
        "AccessDenied",
        "InvalidArgument",
        "InvalidDigest",
        "InvalidRequest",
        "NotImplemented",
        "SignatureDoesNotMatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""Codes with which servers refuse ``UNSIGNED-PAYLOAD``, among other things."""

_EXPECTED_REGION = re.compile(r"expecting '([a-z0-9-]+)'")

_STALLED, _RENEWED, _SIGNED = "puller_stalled", "puller_renewed", "puller_signed"
"""Names in a request's context: how it was signed again."""


class Signing:
    """The signatures of a client. ``read_credentials`` reads them from where the client's came from.

    ``unsigned``: whether bodies are unsigned because puller, not the user, wants it.
    """

    def __init__(
        self,
        client: S3Client,
        differences: Differences,
        read_credentials: Callable[[], Credentials | None],
        unsigned: bool,
    ) -> None:
        self._client: Any = client  # the stubs lack its signer
        self._differences = differences
        self._read_credentials = read_credentials
        self._unsigned = unsigned
        self._accepted: set[str] = set()
        self._lock = threading.Lock()
        events: Any = client.meta.events  # the stubs lack what handlers return
        events.register_first("needs-retry.s3", self._sign_again)
        events.register_first("needs-retry.s3", _name_region)
        events.register_last("after-call.s3", self._learn)

    def _sign_again(
        self, response: Any, request_dict: Mapping[str, Any], operation: Any, **_: object
    ) -> int | None:
        """Return 0 if the request is worth another signature."""
        code = _refusal(response)
        if code is None:
            return None
        context = request_dict["context"]
        if code in _TOO_OLD:
            return _once(context, _STALLED)
        if code in _EXPIRED or (code == "400" and operation.name == "HeadObject"):  # which has no body
            return _once(context, _RENEWED) if self._renew(context) else None
        if self._may_need_signed_body(code, operation.name):
            context["client_config"] = _with_signed_bodies(context["client_config"])
            return _once(context, _SIGNED)
        return None

    def _may_need_signed_body(self, code: str, operation: str) -> bool:
        refused = code in _UNSIGNED or code.isdigit()
        return self._unsigned and refused and operation not in self._accepted

    def _renew(self, context: Mapping[str, Any]) -> bool:
        """Return whether there are other credentials than those that were refused."""
        if _RENEWED in context:
            return False
        signer = self._client._request_signer
        with self._lock:
            # Another thread may have renewed them while this request was under way.
            renewed = self._differences.met(READ_AGAIN)
            fresh = self._read()
            if fresh is not None and _frozen(fresh) != _frozen(signer._credentials):
                signer._credentials = fresh
                self._differences.note(READ_AGAIN)
                renewed = True
        return renewed

    def _read(self) -> Credentials | None:
        try:
            return self._read_credentials()
        except Exception:  # noqa: BLE001 - of programs and files; then the server's refusal stands
            return None

    def _learn(self, http_response: Any, context: Mapping[str, Any], model: Any, **_: object) -> None:
        """Learn from an answer that is not an error."""
        if http_response.status_code >= 300:
            return
        if _STALLED in context:
            self._differences.note(SIGNED_AGAIN)
        self._learn_region(context)
        if _SIGNED in context:
            self._sign_bodies()
        elif self._unsigned:
            self._accepted.add(model.name)

    def _sign_bodies(self) -> None:
        self._client.meta.config.s3["payload_signing_enabled"] = True
        self._unsigned = False
        self._differences.note(SIGNED_BODIES)

    def _learn_region(self, context: Mapping[str, Any]) -> None:
        used = (context.get("signing") or {}).get("region")
        asked = context.get("client_region")
        if used and asked not in (None, used, "aws-global"):
            self._differences.note(other_region(used))


def _refusal(response: Any) -> str | None:
    """Return the code of a refused request, which is the status if the answer has none."""
    if response is None or response[0].status_code not in _REFUSALS:
        return None
    return str((response[1].get("Error") or {}).get("Code") or response[0].status_code)


def _once(context: dict[str, Any], reason: str) -> int | None:
    if reason in context:
        return None
    context[reason] = True
    return 0


def _frozen(credentials: Any) -> object:
    return credentials and credentials.get_frozen_credentials()


def _with_signed_bodies(config: Any) -> Any:
    signing = copy(config)
    signing.s3 = {**(config.s3 or {}), "payload_signing_enabled": True}
    return signing


def _name_region(response: Any, **_: object) -> None:
    """Let the client find the region of the bucket where only the message has it."""
    error = response and response[1].get("Error")
    if not error or error.get("Code") != "AuthorizationHeaderMalformed" or error.get("Region"):
        return
    if found := _EXPECTED_REGION.search(str(error.get("Message"))):
        error["Region"] = found.group(1)
