"""Turns what Python code asks for into a benchmark run, as the command line turns options into one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from benchmark.errors import UsageError, validation_message
from benchmark.method import Method
from benchmark.registry import source_file
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.system import arguments


def asked_in_python(
    known: Mapping[str, type[Method]],
    *,
    methods: object,
    dataset: object,
    features: object,
    settings: object,
    ablate_protocol: object,
    ablate_parts: object,
    plugins: object,
    dataset_configs: object,
    **others: object,
) -> BenchmarkRun:
    """The benchmark run of the arguments of ``api.run``.

    Args:
        known: the registered methods by name.
        others: arguments that have the name and kind of a field of ``BenchmarkRun``.

    Raises:
        UsageError: an argument has another kind, is empty, or is out of its bounds.
    """
    ablated = {}
    for name, given, noun in (("protocol", ablate_protocol, "flag"), ("parts", ablate_parts, "part")):
        wanted = f"a {noun}, a list of {noun}s, or 'all'"
        option = f"ablate_{name}"
        ablated[option] = None if given is None else arguments.several(f"run: {option}", given, str, wanted)
    options = {
        **others,
        "methods": _names(methods, known),
        "dataset": ",".join(arguments.several("run: dataset", dataset, str, "a name or a list of names")),
        "features": None if features is None else arguments.text("run: features", features),
        "set": _settings(settings),
        **ablated,
        "plugin": arguments.paths("run: plugins", plugins),
        "dataset_config": arguments.paths("run: dataset_configs", dataset_configs),
    }
    try:
        return BenchmarkRun.model_validate(options)
    except ValidationError as error:
        raise UsageError(validation_message(error, "run")) from None


def _names(given: object, known: Mapping[str, type[Method]]) -> str:
    """Methods by name, comma-separated, as the command line takes them.

    Raises:
        UsageError: it is neither names nor classes, or a class is not registered as it is now.
    """
    wanted = "a name, a class, a list of these, or 'all'"
    chosen = arguments.several("run: methods", given, (str, type), wanted)
    for method in chosen:
        if isinstance(method, type) and known.get(getattr(method, "name", "")) is not method:
            raise UsageError(
                f"{method.__name__} is no registered method: decorate the class with @register(...), and "
                "pass it as it is now"
            )
    return ",".join(one if isinstance(one, str) else one.name for one in chosen)


def _settings(given: object) -> list[str]:
    """Settings as the command line takes them: ``NAME=VALUE``, the value in YAML."""
    wanted = "a mapping such as {'train.epochs': 2}"
    return [
        f"{name}={_in_yaml(f'run: settings[{name!r}]', value)}"
        for name, value in arguments.mapping("run: settings", given, wanted).items()
    ]


def _in_yaml(what: str, value: Any) -> str:
    """A value in YAML. Texts are taken as they are, since they may be written as on the command line."""
    if isinstance(value, (str, PurePath)):
        return str(value)
    try:
        return json.dumps(value.tolist() if hasattr(value, "tolist") else value)
    except (TypeError, ValueError):  # an object, or one that contains itself
        raise arguments.refuse(
            what, "a number, a text, a truth value, None, or a list of these", value
        ) from None


def refuse_methods_of_notebooks(chosen: Iterable[type[Method]]) -> None:
    """Refuse methods that have no file: other processes cannot import them, and nothing tells their code.

    Raises:
        UsageError: a method is defined in a notebook.
    """
    for method in chosen:
        if source_file(method) is None:
            raise UsageError(
                f"{method.title} is defined in a notebook: use jobs=1 and tracking=None, or write it to a "
                "file and pass plugins=[FILE]"
            )
