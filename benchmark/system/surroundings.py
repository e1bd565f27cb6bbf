"""Protects the program from its environment: other programs' settings, warnings as errors, no home folder."""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError

MLFLOW_KEPT = (
    # who may connect, and how connections are protected
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_KERBEROS_", "MLFLOW_MYSQL_SSL_",
    "MLFLOW_ALLOW_HTTP_REDIRECTS",
    # where and how files go to a store of artifacts
    "MLFLOW_S3_", "MLFLOW_EXPERIMENTAL_S3_", "MLFLOW_BOTO_", "MLFLOW_GCS_", "MLFLOW_MULTIPART_",
    "MLFLOW_ENABLE_MULTIPART_", "MLFLOW_ENABLE_PROXY_MULTIPART_",
    # how long is waited, and how many connections there are
    "MLFLOW_HTTP_", "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", "MLFLOW_DOWNLOAD_CHUNK_TIMEOUT",
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT", "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",
    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW",
    # what MLflow reports to others and prints
    "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
)  # fmt: skip
"""Variables of MLflow (or prefixes ending in ``_``) for connections. The others are for programs that log to
MLflow themselves."""
MLFLOW_KEPT_FOR_SERVERS = ("MLFLOW_WORKSPACE",)
"""A server may have workspaces; our databases have none."""


def settle() -> None:
    """Make this process and its children independent of how it was started; call it before loading libraries.

    Raises:
        UsageError: there is neither a home folder nor a folder for temporary files.
    """
    _soften_warnings()
    _have_home()


def keep_mlflow_settings(*, server: bool) -> None:
    """Remove MLflow's variables from the environment, except those for connections (``MLFLOW_KEPT``).

    Args:
        server: whether the tracking store is a server.
    """
    kept = (*MLFLOW_KEPT, *(MLFLOW_KEPT_FOR_SERVERS if server else ()))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW_"))]:
        if not any(name == k or (k.endswith("_") and name.startswith(k)) for k in kept):
            del os.environ[name]


@contextmanager
def mlflow_settings_restored() -> Iterator[None]:
    """Restore MLflow's variables afterwards, of which those of the user do not apply to our stores."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in [name for name in {*os.environ, *before} if name.startswith("MLFLOW_")]:
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


def refuse_unreadable_mlflow_settings(variables: Mapping[str, Any]) -> None:
    """Refuse values of the environment that MLflow would fail on later without naming a fix.

    Args:
        variables: all names of ``mlflow.environment_variables``. Its variables convert their values.

    Raises:
        UsageError: a value is not of its variable's type.
    """
    for name in sorted(name for name in os.environ if name.startswith("MLFLOW_") and name in variables):
        try:
            variables[name].get()
        except ValueError:
            kinds = {int: "a whole number", float: "a number", bool: "true or false"}
            kind = kinds.get(variables[name].type, "another value")
            raise UsageError(f"{name}={os.environ[name]}: give {kind}, or unset the variable") from None


def _soften_warnings() -> None:
    """Undo ``PYTHONWARNINGS=error``, which is meant for tests: users cannot fix what libraries warn of."""
    # "error" may be abbreviated
    kept = [option for option in sys.warnoptions if not option.strip().startswith("e")]
    if kept == sys.warnoptions:
        return
    sys.warnoptions[:] = kept  # children inherit them
    os.environ["PYTHONWARNINGS"] = ",".join(kept)
    warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
    # the default, set so that Python notices the change
    warnings.simplefilter("ignore", ImportWarning, append=True)


def _have_home() -> None:
    """Give libraries a home folder and a user name if the system has none, as for any uid in a container."""
    try:
        Path.home()
    except RuntimeError:
        try:
            folder = tempfile.mkdtemp(prefix="gzsl-home-")
        except OSError as error:
            raise UsageError(
                f"there is no home folder, and no folder for temporary files ({error}): set HOME or TMPDIR"
            ) from None
        os.environ["HOME"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"uid{os.getuid()}"
