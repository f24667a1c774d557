"""What the APIs of all control planes have in common: a time limit for all calls, and the meaning of answers that are errors.

Certificates are those that the host trusts.
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
    """One server's API, and the moment until which it may be asked."""

    def __init__(self, base: str, seconds: float, proxy: str = "") -> None:
        """``base`` is an http or https URL without a slash at its end; ``seconds`` bound all calls together."""
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
        """Ask, with ``token`` as a bearer's; again if we are told to wait for less time than is left. What is answered is below 500.

        Raises Refused for a certificate that nobody vouches for and for an answer that leads elsewhere; Unavailable for no
        answer, 429 and 5xx.
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
    """Whether it is Headscale's own, as it says of what does not exist, too: 500 ``{"code": 2, "message": "user not found"}``."""
    document = as_dict(answer.document)
    return isinstance(document.get("code"), int) and isinstance(document.get("message"), str)
