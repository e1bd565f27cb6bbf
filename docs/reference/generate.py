"""A hook of MkDocs that writes the generated parts of the reference.

A page has ``<!-- generated: NAME -->`` where the text of ``PARTS[NAME]`` goes. CONTRIBUTING.md and
CHANGELOG.md become pages, and links to them lead there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pandas as pd
import typer
from mkdocs.structure.files import File
from pydantic import BaseModel

from benchmark import registry
from benchmark.cli import app
from benchmark.data import cards
from benchmark.report.results.collect import COLUMNS
from benchmark.report.results.published import MethodFacts, Numbers, PublishedTable, load_published
from benchmark.report.tables.means import numbers_csv, summarise
from benchmark.report.tables.table import FLAG_MARKS, FLAG_TEXTS
from benchmark.report.write import CSV_METRICS
from benchmark.settings import schema

PROJECT = Path(__file__).resolve().parents[2]
PAGES = {"CONTRIBUTING.md": "development/contributing.md", "CHANGELOG.md": "development/changelog.md"}
CONFIGS = ("Card", "FeatureSetConfig", "ModalityConfig", "OfficialLayout", "Preset")
SECTIONS = {
    "train": schema.TrainConfig, "lengths": schema.LengthConfig,
    "protocol": schema.ProtocolConfig, "tuning": schema.TuningConfig,
}  # fmt: skip
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. Cells are one line; a bar in a cell does not end it."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def command_line() -> str:
    """Each command with its arguments and options."""
    group: Any = typer.main.get_command(app.app)
    return "\n".join(_commands("", group))


def _commands(name: str, command: Any) -> Iterator[str]:
    if name:
        yield f"{'#' * (2 + name.count(' '))} {name}\n\n{_plain(command.help)}\n"
        rows = [_option(parameter) for parameter in command.params if "--help" not in parameter.opts]
        yield table(["option", "meaning", "default"], rows) if rows else ""
    for part, below in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {part}".strip(), below)


def _option(parameter: Any) -> list[str]:
    names = ", ".join(f"`{each}`" for each in [*parameter.opts, *parameter.secondary_opts])
    if not parameter.opts[0].startswith("-"):
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    kind = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    known = get_args(kind) if get_origin(kind) is Literal else ()
    choices = f" One of {', '.join(f'`{each}`' for each in known)}." if known else ""
    source = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
    given = None if callable(parameter.default) else parameter.default
    default = "required" if parameter.required else "" if given in (None, False, (), []) else f"`{given}`"
    meaning = _plain(getattr(parameter, "help", ""))
    if not default and (named := re.search(r" ?\(default: ((?:[^()]|\([^()]*\))*)\)", meaning)):
        meaning, default = meaning.replace(named[0], ""), named[1]
    return [names, meaning + choices + source, default]


def _plain(text: str | None) -> str:
    """Help text without the markup of the terminal."""
    return re.sub(r"\[/?(?:bold|dim|italic)?\]", "", text or "").replace("<", "&lt;")


def allowed(field: Any) -> str:
    """Type and bounds of a field of a Pydantic model."""
    bounds = [
        f"{sign} {getattr(each, name)}"
        for each in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    if isinstance(annotation, str):
        return f"`{annotation}`"
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "`null`"
    if origin is Literal:
        return ", ".join(_type(each) for each in args)
    if origin is Annotated:
        return _type(args[0])
    if origin in (dict, list, tuple):
        return {dict: "mapping", list: "list", tuple: "list"}[origin]
    if args:
        return " or ".join(_type(each) for each in args)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(annotation, "any")


def fields(model: type[BaseModel]) -> str:
    """The fields of a Pydantic model as a table."""
    rows = []
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else f"`{_written(value)}`"
        rows.append([f"`{name}`", default, allowed(field), field.description or ""])
    return table(["field", "default", "allowed", "meaning"], rows)


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)


def settings() -> str:
    """The sections of settings that all methods have."""
    return "\n".join(f"## {name}\n\n{fields(model)}" for name, model in SECTIONS.items())


def methods() -> str:
    """Each method with its origin and its hyperparameters."""
    parts = []
    for name, method in registry.load().methods.items():
        facts = [f"- inputs: `{method.inputs}`", f"- reported output: `{method.reported_output}`"]
        facts += [
            f"- {what}: {text}" for what, text in (("paper", method.paper), ("note", method.note)) if text
        ]
        parts += [f"## {method.title} {{ #{name} }}\n\n- name: `{name}`", *facts, "", fields(method.Config)]
    return "\n".join(parts)


def dataset_config() -> str:
    """The fields of a dataset config, part by part."""
    return "\n".join(f"## {name} {{ #{name.lower()} }}\n\n{fields(getattr(cards, name))}" for name in CONFIGS)


def report_columns() -> str:
    """Columns of the CSV files whose columns do not depend on the results."""
    nothing = summarise(pd.DataFrame(columns=[*COLUMNS, "settings"]))
    columns = {f"{name}.csv": numbers_csv(nothing, metrics) for name, metrics in CSV_METRICS.items()}
    columns["results.csv"] = [*COLUMNS, "settings"]
    rows = [[f"`{file}`", ", ".join(f"`{name}`" for name in names)] for file, names in columns.items()]
    return table(["file", "columns"], rows)


def published_marks() -> str:
    """Each flag of a published number with its mark."""
    rows = [[FLAG_MARKS[flag], f"`{flag}`", text] for flag, text in FLAG_TEXTS.items()]
    return table(["mark", "flag", "meaning"], rows)


def published_sources() -> str:
    """Each table of published numbers: source, origin, features, methods."""
    rows = []
    for each in load_published():
        source = f"[{each.short}]({each.url})" if each.url else each.short
        names = dict.fromkeys(f"`{name}`" for methods in each.results.values() for name in methods)
        year = str(each.year or "–")
        rows.append([f"{source}, {each.table}", year, each.origin, f"`{each.features}`", ", ".join(names)])
    return table(["source", "year", "origin", "features", "methods"], rows)


def published_fields() -> str:
    """The fields of a file of published numbers."""
    parts = [fields(PublishedTable)]
    parts += [
        f"### {model.__name__} {{ #{model.__name__.lower()} }}\n\n{fields(model)}"
        for model in (MethodFacts, Numbers)
    ]
    return "\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "command line": command_line, "settings": settings, "methods": methods,
    "dataset config": dataset_config, "report columns": report_columns,
    "published marks": published_marks, "published sources": published_sources,
    "published fields": published_fields,
}  # fmt: skip


def on_files(files: Any, config: Any) -> Any:
    """Add CONTRIBUTING.md and CHANGELOG.md as pages."""
    for name, page in PAGES.items():
        text = (PROJECT / name).read_text(encoding="utf-8").replace("](docs/", "](../")
        for other, target in PAGES.items():
            text = text.replace(f"]({other}", f"]({Path(target).name}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in generated parts, and lead links out of docs/ to the pages made above."""
    up = "../" * page.file.src_uri.count("/")
    for name, target in PAGES.items():
        markdown = markdown.replace(f"]({up}../{name}", f"]({up}{target}")
    return re.sub(r"<!-- generated: ([\w ]+) -->", lambda found: PARTS[found[1]](), markdown)
