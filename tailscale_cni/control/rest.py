"""The common part of all control planes' APIs: one time limit for all calls, and the handling of errors.

Certificates are verified with the authorities that the host trusts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..http.answer import Distrusted, NoAnswer
from ..http.client import Client
from ..json_fields import as_dict
from . import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..http.answer import Answer


class Rest:
    """One server's API, and the deadline for calling it."""

    def __init__(self, base: str, seconds: float, proxy: str = "") -> None:
        """``base`` is an http or https URL without a slash at its end. All calls together take at most ``seconds``."""
        self.client = Client(base, proxy=proxy)
        self.deadline = time.monotonic() + seconds

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        form: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send a request, with ``token`` as bearer token. After a 429, retry if the requested wait is shorter than the time that is left.

        Raises Refused for a certificate that is not trusted and for a redirect; Unavailable for no answer, 408, 429 and 5xx. A 500 that is
        Headscale's error object is returned.
        """
        while True:
            answer = self._answer(method, path, token, form, body)
            wait = answer.retry_after
            if answer.status == 429 and wait and time.monotonic() + wait < self.deadline:
                time.sleep(wait)
                continue
            return self._usable(answer)

    def _answer(
        self,
        method: str,
        path: str,
        token: str,
        form: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> Answer:
        try:
            return self.client.ask(method, path, self.deadline, token=token, form=form, body=body)
        except Distrusted as e:
            raise Refused(
                e.reason,
                "Somebody may be in between. A certificate authority of your own belongs into the host's store "
                "(update-ca-certificates).",
            ) from None
        except NoAnswer as e:
            raise Unavailable(e.reason, e.advice, reached=e.reached) from None

    def _usable(self, answer: Answer) -> Answer:
        said = f": {answer.message}" if answer.message else ""
        if answer.status == 429:
            raise Unavailable(
                f"it has been asked too often{said}", reached=False, retry_after=answer.retry_after or 1.0
            )
        if answer.status == 408 or (answer.status >= 500 and not _is_error_object(answer)):
            raise Unavailable(
                f"it answers {answer.status}{said}", reached=True, retry_after=answer.retry_after
            )
        if 300 <= answer.status < 400:
            raise Refused(
                f"{self.client.base} answers {answer.status}: it leads elsewhere, and a credential goes to no other host",
                "Set apiURL to where it leads, if that is yours.",
            )
        return answer


def _is_error_object(answer: Answer) -> bool:
    """Whether an answer is Headscale's error object. For a missing user it is 500 ``{"code": 2, "message": "user not found"}``."""
    document = as_dict(answer.document)
    return isinstance(document.get("code"), int) and isinstance(document.get("message"), str)
