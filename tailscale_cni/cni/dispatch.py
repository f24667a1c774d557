"""Answer a runtime's call: find the verb, run it, write its answer to standard output, and return the exit status.

Whatever happens in a verb, the runtime gets one JSON document and one log line, and never a traceback. Environment, streams and verbs
are arguments.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple, TextIO

from tailscale_cni import errors

from . import document, request, result, versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

Verb = Callable[[request.Request], Mapping[str, Any] | None]
"""A verb's function. Its result is printed; ADD may return None to print the prevResult."""

MAX_SENTENCE = 1000
MAX_ADVICE = 4000
"""Characters of ``msg`` and ``details`` that are printed."""

_LIKE_A_KEY = r"(?:tskey|hskey)-[\w-]*"
_PACKAGE = __name__.partition(".")[0]


class Outcome(NamedTuple):
    """How a call ended: the text for standard output, the error or None, the request or None if it could not be parsed, and warnings."""

    text: bytes
    error: errors.Error | None
    request: request.Request | None
    warnings: list[str]


def main(
    environ: Mapping[str, str],
    stdin: BinaryIO | None,
    stdout: BinaryIO | None,
    stderr: TextIO | None,
    load: Callable[[str], Verb],
    log: Callable[[Mapping[str, Any], str], None] | None = None,
) -> int:
    """Answer one CNI call and return the exit status, 0 or 1. Raises nothing.

    A stream is None if it is closed. ``load`` returns the function of a verb (ADD, DEL, CHECK, GC, STATUS), so that only that verb is
    imported. ``log`` is called with the conflist entry ({} if it could not be parsed) and the log line, which also goes to ``stderr``.
    """
    started = time.monotonic()
    with _interruptible() as disarm:
        outcome = _run(environ, stdin, stdout, load, disarm)
        delivered = _write(stdout, outcome.text)
        line = _line(environ, outcome, time.monotonic() - started, delivered=delivered)
        _write(stderr, line + "\n")
        with contextlib.suppress(Exception):
            if log:
                log(outcome.request.config if outcome.request else {}, line)
    return 0 if delivered and outcome.error is None else 1


def _run(
    environ: Mapping[str, str],
    stdin: BinaryIO | None,
    stdout: BinaryIO | None,
    load: Callable[[str], Verb],
    disarm: Callable[[], None],
) -> Outcome:
    """Perform the call and turn every failure into an Outcome. Signals no longer interrupt once it has returned."""
    data, asked = b"", None
    warnings: list[str] = []
    try:
        _open_standard_descriptors()
        answer: Mapping[str, Any] | None
        if request.find_verb(environ).name == "VERSION":
            answer = _report(stdin)
        else:
            data = document.read(stdin)
            asked = request.parse(environ, data)._replace(warn=warnings.append)
            answer = _perform(asked, stdout, load)
        text = b"" if answer is None else document.encode(answer)
        disarm()
        return Outcome(text, None, asked, warnings)
    except BaseException as e:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are failures of a verb too
        disarm()
        error = _as_error(e)
        return Outcome(_error_text(error, _callers_version(stdin, data)), error, asked, warnings)


def _perform(
    asked: request.Request, stdout: BinaryIO | None, load: Callable[[str], Verb]
) -> Mapping[str, Any] | None:
    """Run the verb and return its answer. Raises InputOutput for an ADD without standard output, because its answer would be lost."""
    if asked.command == "ADD" and stdout is None:
        reason = "standard output is closed"
        raise errors.InputOutput(what="an ADD must be answered", reason=reason, path="standard output")
    with _silence(stdout):
        answer = load(asked.command)(asked)
    return result.echo(asked) if asked.command == "ADD" and answer is None else answer


def _report(stdin: BinaryIO | None) -> dict[str, object]:
    """The answer to VERSION. Standard input may be empty, so that people can call it by hand."""
    try:
        data = document.read(stdin)
    except errors.Error:
        data = b""
    config = document.decode(data) if data.strip() else {}
    return versions.report(config.get("cniVersion"))


def _as_error(e: BaseException) -> errors.Error:
    """Turn any exception into an Error. The text of an unknown exception is not shown, because it may contain a secret."""
    if isinstance(e, errors.Error):
        return e
    if isinstance(e, KeyboardInterrupt):
        return errors.Interrupted()
    if isinstance(e, OSError):
        path = errors.show(e.filename) if e.filename else "what it uses"
        reason = e.strerror or type(e).__name__
        return errors.InputOutput(what=f"the call failed at {_place(e)}", reason=reason, path=path)
    return errors.Internal(kind=type(e).__name__, reason=f"at {_place(e)}")


def _place(e: BaseException) -> str:
    """Where in this package an exception came from, as ``verbs/add.py:12``."""
    place = "an unknown place"
    traceback = e.__traceback__
    while traceback:
        _, ours, file = traceback.tb_frame.f_code.co_filename.rpartition(f"/{_PACKAGE}/")
        if ours:
            place = f"{file}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _error_text(error: errors.Error, version: str) -> bytes:
    """The CNI error object: SPEC section 5, "Error"."""
    try:
        advice = error.advice
    except (KeyError, IndexError, ValueError):  # the hint has a placeholder without a value
        advice = ""
    return document.encode(
        {
            "cniVersion": version,
            "code": error.code,
            "msg": printable(error.sentence, MAX_SENTENCE),
            "details": printable(advice, MAX_ADVICE),
        }
    )


def _callers_version(stdin: BinaryIO | None, data: bytes) -> str:
    """The ``cniVersion`` for an error: the caller's, or the newest if the caller's is not known or not supported."""
    try:
        return versions.negotiate(document.decode(data or document.read(stdin)).get("cniVersion"))
    except Exception:  # noqa: BLE001 - the first error matters more
        return versions.NEWEST


def printable(text: str, limit: int) -> str:
    """Text for a log or a terminal: one line of at most ``limit`` characters, without control characters and auth keys."""
    text = text[: limit + 100]
    if "skey-" in text:
        text = re.sub(_LIKE_A_KEY, "<key>", text)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _line(environ: Mapping[str, str], outcome: Outcome, seconds: float, *, delivered: bool) -> str:
    """The log line of a call, in logfmt."""
    pod = outcome.request.pod if outcome.request else None
    fields = [
        f"verb={_field(environ, 'CNI_COMMAND')}",
        f"pod={pod or '-'}",
        f"container={_field(environ, 'CNI_CONTAINERID')}",
        f"ifname={_field(environ, 'CNI_IFNAME')}",
        f"duration={seconds:.3f}s",
    ]
    if outcome.error:
        fields += ["outcome=error", f"code={outcome.error.code}", f"msg={_quoted(outcome.error.sentence)}"]
    else:
        fields.append("outcome=ok" if delivered else "outcome=undelivered")
    return " ".join((*fields, *(f"warning={_quoted(text)}" for text in outcome.warnings)))


def _quoted(sentence: str) -> str:
    text = printable(sentence, MAX_SENTENCE).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _field(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "") or "-"
    plain = value.isprintable() and " " not in value and len(value) <= request.MAX_NAME
    return value if plain else errors.show(value)


def _write(stream: IO[Any] | None, text: bytes | str) -> bool:
    """Write and flush ``text``; returns whether that worked.

    If not, the stream is redirected to /dev/null, so that Python does not fail on its buffer at exit.
    """
    if stream is None or not text:
        return not text
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            _redirect(stream.fileno())
        return False
    return True


@contextlib.contextmanager
def _silence(stdout: BinaryIO | None) -> Iterator[None]:
    """Redirect standard output to /dev/null during the body, because nothing but the answer may be printed there."""
    try:
        fd = stdout.fileno() if stdout else None
    except (OSError, ValueError):  # a buffer in memory
        fd = None
    if fd is None:
        yield
        return
    saved = os.dup(fd)
    try:
        _redirect(fd)
        yield
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os.dup2(saved, fd)
        os.close(saved)


def _redirect(fd: int) -> None:
    """Make ``fd`` refer to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)


def _open_standard_descriptors() -> None:
    """Open /dev/null at descriptors 0, 1 and 2 if they are closed. Otherwise the next file that is opened would become one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Turn the first SIGTERM, SIGHUP or SIGINT into a KeyboardInterrupt, so that a verb can clean up.

    Yields a function that disarms this. Later signals, and signals while the answer is written, are ignored; SIGKILL still works.
    """
    armed = True

    def disarm() -> None:
        nonlocal armed
        armed = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        if armed:
            disarm()
            raise KeyboardInterrupt

    previous: dict[int, Any] = {}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with contextlib.suppress(ValueError):  # only the main thread can set signal handlers
            previous[number] = signal.signal(number, handle)
    try:
        yield disarm
    finally:
        for changed, handler in previous.items():
            signal.signal(changed, handler)
