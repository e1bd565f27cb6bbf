"""Keeps passwords and tokens out of everything that is written or shown.

``hide`` works in two ways. It finds addresses in a text and removes their user, password and secret
parameters. And it removes the known secrets of this process (from its addresses and environment) from any
text, since libraries repeat them in parts, decoded or encoded. It is called wherever texts leave the process.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shlex
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "…"
ADDRESS = re.compile(r"""\b([a-z][a-z0-9+.-]*://)([^\s'"`<>]+)""", re.IGNORECASE)
SECRET_NAME = (
    r"[\w.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"credential|signature)"
)
PARAMETER = re.compile(rf"""([?&;](?:{SECRET_NAME}|sig|auth|key|pass)=)[^&;\s'"`<>]+""", re.IGNORECASE)
ASSIGNED = re.compile(r"""(\b(?:ssl)?passw(?:or)?d=)(?:'[^']*'|"[^"]*"|[^\s&;,)'"]+)""", re.IGNORECASE)
AUTHORISATION = re.compile(r"(\bauthorization\W{1,5}(?:basic|bearer)\s+)[\w.~+/=-]+", re.IGNORECASE)
SECRET_VARIABLE = re.compile(
    r"(?:^|.*_)(?:\w*PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|SECRET|TOKEN|CREDENTIALS?|APIKEY|SECRET_KEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|"
    r"JWT|PAT|CONNECTION_STRING)"
    r"(?:_ID)?"
)
FOLDERS = ("PWD", "OLDPWD")
"""Variables of the shell whose names only look like those of secrets."""
DATABASES = ("postgres", "mysql", "mariadb", "mssql", "oracle", "cockroach", "redis", "mongodb")
ADDRESS_VARIABLES = ("GZSL_TRACKING_URI", "GZSL_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
ADDRESS_OPTIONS = ("--tracking-uri", "--storage", "--ray-address", "--mlflow-ui")
WORD = re.compile(r"[a-z]+|[0-9]+")
"""Secrets that may equal one of our names or numbers. They are hidden only in free text, as whole words."""
LEAST, LEAST_PIECE, SURE = 2, 4, 6
"""Fewest characters of a secret, of a piece of one, and of a secret that is hidden within words too."""

_secrets: set[str] = set()


def hide(text: str) -> str:
    """A text for people with ``…`` in place of each secret."""
    return _without_known(_without_addresses(text), _secrets)


def hide_values(content: Any) -> Any:
    """Plain data without the secrets of its texts, at any depth.

    Secrets that are a plain word or number stay, since names of methods and data may be the same.
    """
    if isinstance(content, str):
        return _without_known(_without_addresses(content), [s for s in _secrets if _is_sure(s)])
    if isinstance(content, Mapping):
        return {hide_values(key): hide_values(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [hide_values(value) for value in content]
    return content


def hidden_command(words: Sequence[str]) -> str:
    """A command line quoted for a shell, with ``…`` in place of users and passwords of addresses."""
    for before, word in zip(["", *words], words, strict=False):
        learn_option(before, word)
    return shlex.join([hide(word) if "@" in word or "://" in word else hide_values(word) for word in words])


def link_to(address: str) -> str:
    """An address for a link, without user, password and secret parameters."""
    learn(address)
    return hide(ADDRESS.sub(lambda found: found[1] + found[2][_user_end(*found.groups()) :], address))


def learn_option(before: str, word: str) -> None:
    """Hide the secrets of a word of a command line from now on.

    Args:
        before: the word before it, to recognise addresses without a scheme.
    """
    option, equals, value = word.partition("=")
    if option in ADDRESS_OPTIONS and equals:
        learn(value)
    elif before in ADDRESS_OPTIONS or "://" in word:
        learn(word[word.index("://") - len(_scheme(word)) :] if "://" in word else word)


def learn(address: str) -> None:
    """Hide the secrets of an address from now on, however a library parses it."""
    # Parameters with a secret name.
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    for found in re.finditer(rf"[?&;#]({SECRET_NAME}|sig|auth|key|pass)=([^&;]+)", rest, re.IGNORECASE):
        _add(found[2])
        _add(found[2].partition("#")[0])
    if rest.startswith(("/", ".")) or (not separator and ":" not in rest.partition("@")[0]):
        return  # a file

    # User and password, up to each place where a library may see their end.
    for end in {
        rest.rfind("@"),
        _user_end(scheme + "://", rest) - 1,
        re.split(r"[/?#]", rest, maxsplit=1)[0].rfind("@"),
    }:
        if end <= 0:
            continue
        user, _, password = rest[:end].partition(":")
        if password:
            _add(rest[:end], LEAST_PIECE)
            _add(base64.b64encode(unquote(rest[:end]).encode()).decode())
            _add(password)
            for piece in re.split(r"[@/?#:]", password):
                _add(piece, LEAST_PIECE)
        if scheme in ("http", "https") and (not password or len(user) >= 16):  # a token in place of the user
            _add(user, LEAST_PIECE)


def learn_environment() -> None:
    """Hide the secrets of the environment from now on: passwords, tokens, and those of addresses."""
    for name, value in os.environ.items():
        if name in ADDRESS_VARIABLES:
            learn(value)
        elif "://" in value:
            for found in ADDRESS.finditer(value):
                learn(found[0])
        elif name not in FOLDERS and SECRET_VARIABLE.fullmatch(name.upper()) and not value.startswith("/"):
            _add(value, LEAST_PIECE)
            # connection strings
            for piece in re.findall(r"(?:key|password|pwd|signature)=([^;]+)", value, re.IGNORECASE):
                _add(piece, LEAST_PIECE)
            # servers repeat the header that they got: user and password in base64
            for kind in ("USERNAME", "USER"):
                user = os.environ.get(name.removesuffix("PASSWORD") + kind)
                if user is not None and name.endswith("PASSWORD"):
                    _add(base64.b64encode(f"{user}:{value}".encode()).decode())


def _add(secret: str, least: int = LEAST) -> None:
    plain = unquote(secret)
    forms = {secret, plain, unquote_plus(secret), quote_plus(plain), quote(plain)}
    forms |= {quote(s, safe="") for s in (plain, secret)}
    forms |= {repr(form)[1:-1] for form in forms} | {json.dumps(form)[1:-1] for form in forms}
    _secrets.update(
        form for form in forms if len(form) >= least and form.lower() not in ("true", "false", "none", "null")
    )


def _is_sure(secret: str) -> bool:
    return len(secret) >= SURE and WORD.fullmatch(secret) is None


def _without_known(text: str, secrets: Sequence[str] | set[str]) -> str:
    for secret in sorted((s for s in secrets if s in text), key=len, reverse=True):
        if _is_sure(secret):
            text = text.replace(secret, HIDDEN)
        else:  # only as a whole word, also after %3A or \n
            word = rf"(?:(?<![^\W_])|(?<=%[0-9A-Fa-f]{{2}})|(?<=\\[nrt])){re.escape(secret)}(?![^\W_])"
            text = re.sub(word, HIDDEN, text)
    return text


def _without_addresses(text: str) -> str:
    if "://" in text:
        text = ADDRESS.sub(_hidden_address, text)
    if "=" in text:
        text = ASSIGNED.sub(rf"\1{HIDDEN}", PARAMETER.sub(rf"\1{HIDDEN}", text))
    return AUTHORISATION.sub(rf"\1{HIDDEN}", text) if "uthorization" in text else text


def _hidden_address(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    end = _user_end(scheme, rest)
    return f"{scheme}{HIDDEN}@{rest[end:]}" if end else found[0]


def _user_end(scheme: str, rest: str) -> int:
    """The position after the ``@`` behind user and password; 0 if there are none.

    Passwords are often pasted without encoding. An address with ``/``, ``?``, ``#`` or ``@`` in its password
    is invalid and is recognised by a port that is no number. In doubt too much is hidden.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = authority.partition(":")[2]
    if not authority:  # a file
        return 0
    parameters = re.search(r"\?[\w.-]+=", rest)
    before = rest[: parameters.start()] if parameters else rest
    if "@" in before and (
        "@" in authority or (port and not port.isdigit()) or scheme.lower().startswith(DATABASES)
    ):
        return before.rfind("@") + 1
    return rest.rfind("@") + 1 if port and not port.isdigit() else 0


def _scheme(word: str) -> str:
    found = re.search(r"[A-Za-z][A-Za-z0-9+.-]*$", word.partition("://")[0])
    return found[0] if found else ""


def guard() -> None:
    """Hide secrets in log records, warnings and tracebacks of uncaught errors of this process.

    Also learn the secrets of its environment. Calling it again is harmless.
    """
    learn_environment()
    if getattr(logging.getLogRecordFactory(), "hides", False):
        return

    # Log records and warnings.
    make_record, format_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = make_record(*arguments, **options)
        try:
            made.msg, made.args = hide(made.getMessage()), None
        except (TypeError, ValueError, KeyError):  # the handler reports it
            return made
        if made.exc_info and made.exc_info[0] is not None:
            made.exc_text = hide("".join(traceback.format_exception(*made.exc_info)).rstrip("\n"))
        return made

    def warning(*arguments: Any, **options: Any) -> str:
        return hide(format_warning(*arguments, **options))

    # Uncaught errors, of the main thread and of others.
    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(hidden_traceback(error))

    def uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
            uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    # Other programs' hooks for uncaught errors are kept.
    record.hides = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)
    warnings.formatwarning = warning
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = uncaught_in_thread


def hidden_traceback(error: BaseException) -> str:
    """The traceback of an error without secrets."""
    return hide("".join(traceback.format_exception(error)))
