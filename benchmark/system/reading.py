"""Reads the YAML and JSON files that people write, and finds them among other files.

Values are read as written or refused: duplicate keys, a second document, or a list in place of fields are
errors that name the file and the line.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from benchmark.errors import UsageError

YAML_SUFFIXES = (".yaml", ".yml")
JUNK = ("thumbs.db", "desktop.ini", "icon\r")
MOST_VALUES = 100_000
"""Values that a file may have. Those that a YAML alias repeats count each time."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
LONGEST_NAME = 64
NAME_RULE = (
    "use lower-case letters, digits, hyphens and underscores, a letter or digit first, "
    f"{LONGEST_NAME} at most"
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that it refuses duplicate keys and reads ``1e-4`` as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[Hashable, yaml.Node] = {}
        for key_node, _ in node.value:
            key = self._key(key_node)
            if key in first:
                before, line = first[key], first[key].start_mark.line + 1
                same = "" if before.value == key_node.value else f", which is {before.value!r} again"
                raise yaml.MarkedYAMLError(
                    problem=(
                        f"key {key_node.value!r} is given twice{same} (first in line {line}); keep one "
                        "of them"
                    ),
                    problem_mark=key_node.start_mark,
                )
            first[key] = key_node
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, KeyError) as error:
            # an impossible date, an endless number, "!!bool maybe"
            kind = node.tag.rsplit(":", 1)[-1]
            problem = f"{node.value!s:.60} cannot be read as {kind} ({error!s:.60}); write a text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def _key(self, node: yaml.Node) -> Hashable:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be a plain value", problem_mark=node.start_mark)
        if node.tag == "tag:yaml.org,2002:merge":
            return node.tag
        key: Hashable = self.construct_object(node)
        return key


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)  # YAML 1.1 requires 1.0e-4 and reads 1e-4 as a string


def parse_yaml(text: str, place: str) -> Any:
    """The value of a YAML text; None if it is empty.

    Args:
        place: where the text comes from, for messages.

    Raises:
        UsageError: it is not YAML, has more than one document, or has a duplicate key.
    """
    found = parse_documents(text, place)
    if len(found) > 1:
        raise UsageError(f"{place}: holds {len(found)} documents; write one, without a line '---' in it")
    return found[0] if found else None


def parse_documents(text: str, place: str) -> list[Any]:
    """The values of all documents of a YAML text.

    Raises:
        UsageError: it is not YAML, or has a duplicate key.
    """
    found = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # checked
            if _count(node, {}) > MOST_VALUES:
                raise UsageError(
                    f"{place}: holds more than {MOST_VALUES:,} values, with those that aliases (*NAME) repeat"
                )
            found.append(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark is not None and not place.startswith("--set") else ""
        tab = "; indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
        kind = "" if str(error.problem).startswith(("key ", "a key ")) else "not valid YAML: "
        raise UsageError(f"{place}: {kind}{line}{error.problem}{tab}") from None
    except yaml.reader.ReaderError as error:
        number, sign = text.count("\n", 0, error.position) + 1, f"U+{ord(text[error.position]):04X}"
        raise UsageError(
            f"{place}: not valid YAML: line {number}: the character {sign} is not allowed"
        ) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{place}: not valid YAML: {error}") from None
    except RecursionError:
        raise UsageError(f"{place}: not valid YAML: nested too deeply") from None
    return found


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """Values of a node, an alias counted wherever it is used; infinite for a node that contains itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}: line {line}: not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from None


def read_documents(path: Path) -> list[Any]:
    """All documents of a YAML file.

    Raises:
        UsageError: it cannot be read, is not YAML, or has a duplicate key.
    """
    return parse_documents(read_text(path), str(path))


def read_fields(path: Path) -> dict[Any, Any]:
    """The fields of a YAML file.

    Raises:
        UsageError: it cannot be read, is empty, holds no fields, or ``parse_yaml`` refuses it.
    """
    found = parse_yaml(read_text(path), str(path))
    if not isinstance(found, dict):
        what = (
            "is empty" if found is None else f"holds {'a list' if isinstance(found, list) else 'one value'}"
        )
        raise UsageError(f"{path}: {what}; write fields as NAME: VALUE, a line each")
    return found


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or has a duplicate key.
    """

    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = min(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"key {twice!r} is given twice; keep one of them")
        return found

    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)


def is_junk(name: str) -> bool:
    """Whether a file looks like a leftover of a system or editor: hidden, ``x~``, ``#x#``, ``Thumbs.db``."""
    return (
        name.startswith(".")
        or name.endswith("~")
        or (name[:1] == name[-1:] == "#")
        or name.casefold() in JUNK
    )


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of these extensions, sorted, except leftovers of systems and editors.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not is_junk(p.name))


def refuse_special(path: Path) -> None:
    """Refuse what is no file, such as a folder or a pipe, from which reading would wait without end.

    Raises:
        UsageError: it is there and no file.
    """
    with suppress(OSError):  # reading it gives the reason
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is not a readable file")


class Fields(BaseModel):
    """Base class of what is read from files and options: refuses unknown keys and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _kept(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        taken = validate(value)
        if wrong := next(_bent(value, taken), None):
            raise ValueError(wrong)
        return taken


def _bent(given: Any, taken: Any) -> Iterator[str]:
    """Values that validation converted: strings and booleans to numbers, strings and numbers to booleans."""
    if isinstance(taken, bool):
        if not isinstance(given, bool):
            yield f"write true or false, not {given!r}"
    elif isinstance(taken, (int, float)):
        if isinstance(given, bool):
            yield f"is a truth value ({str(given).lower()}), not a number"
        elif isinstance(given, (str, bytes)):
            yield "is a text, not a number: write it without quotes"
    elif isinstance(taken, Mapping) and isinstance(given, Mapping):
        for one, other in zip(given.items(), taken.items(), strict=False):
            yield from _bent(one[1], other[1])
    elif isinstance(taken, (list, tuple)) and isinstance(given, (list, tuple)):
        for one, other in zip(given, taken, strict=False):
            yield from _bent(one, other)


def _text(value: Any) -> Any:
    if isinstance(value, (bool, int, float)) or value is None:
        raise ValueError(f"YAML reads this as {value!r}, not as a text: write it in quotes")
    return value


def is_name(text: str) -> bool:
    """Whether a text can be given on the command line and be part of a file name."""
    return NAME.fullmatch(text) is not None and len(text) <= LONGEST_NAME


def _usable(name: str) -> str:
    if not is_name(name):
        raise ValueError(NAME_RULE)
    return name


Name = Annotated[str, BeforeValidator(_text), AfterValidator(_usable)]
"""A name that can be given on the command line and be part of a file name."""
