"""YAML and JSON that people write are read as written, or refused with the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from benchmark.errors import UsageError
from benchmark.system.reading import Fields, files_in, parse_yaml, read_fields, read_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml: line 3: key 'a' is given twice .first in line 1.; keep one"),
        ("x:\n  a: 1\n  a: 2\n", "line 3: key 'a' is given twice .first in line 2"),
        ("x: {a: 1, a: 1}", "key 'a' is given twice"),
        ("- a: 1\n- {b: 1, b: 2}\n", "line 2: key 'b'"),
        ("1: a\n01: b\n", "key '01' is given twice, which is '1' again .first in line 1"),
        ("yes: a\ntrue: b\n", "key 'true' is given twice, which is 'yes' again"),
        ("'a': 1\na: 2\n", "key 'a' is given twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "line 4: key '<<' is given twice"),
        ("? [1, 2]\n: a\n", "line 1: a key must be a plain value"),
        ("? {a: 1}\n: a\n", "line 1: a key must be a plain value"),
        ("a:\n\tb: 1\n", "not valid YAML: line 2: .*indent with spaces, not tabs"),
        ("a: 1\n---\na: 2\n", "holds 2 documents"),
        ("a: *nowhere\n", "not valid YAML: line 1: found undefined alias"),
        ("a: 1\nb: \x00\n", "not valid YAML: line 2: the character U.0000"),
        (
            "a: 1\nb: 2001-99-99\n",
            "not valid YAML: line 2: 2001-99-99 cannot be read as timestamp .month .*write a text in quotes",
        ),
        ("a: " + "9" * 5000, "not valid YAML: line 1: 9+ cannot be read as int .Exceeds the limit"),
        ("a: !!bool maybe\n", "not valid YAML: line 1: maybe cannot be read as bool"),
        ("[" * 500, "nested too deeply"),
        ("a: &a [*a]\n", "more than 100,000 values"),
        (
            "a: !!python/object/apply:os.getcwd []\n",
            "not valid YAML: line 1: could not determine a constructor",
        ),
    ],
)
def test_what_would_be_dropped_or_cannot_be_read_is_reported_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_yaml(text, "f.yaml")


def test_a_small_file_that_unfolds_to_billions_of_values_is_refused() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    with pytest.raises(UsageError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines), "f.yaml")


def test_a_merged_key_may_be_replaced_and_numbers_are_numbers() -> None:
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: *x}\nn: [1e-4, 1E+4, -2e3, 1.0e-4, 1e]\n"
    text += "t: [2E5 clips of birds, 8e33f0b1, 1e4_0, 1e5:30]\n"
    assert parse_yaml(text, "f.yaml") == {
        "x": {"a": 1, "b": 2},
        "y": {"a": 1, "b": 3},
        "z": {"a": 1, "b": 2},
        "n": [1e-4, 1e4, -2e3, 1e-4, "1e"],
        "t": ["2E5 clips of birds", "8e33f0b1", "1e4_0", "1e5:30"],
    }
    nested = parse_yaml("p: {q: &b {<<: &a {k: 1}, k: 2}}\nr: {<<: *b}\n", "f.yaml")
    assert (nested["p"]["q"], nested["r"]) == ({"k": 2}, {"k": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; write fields as NAME: VALUE"),
        (b"# nothing\n", "is empty"),
        (b"- 1\n", "holds a list; write fields"),
        (b"word\n", "holds one value"),
        ("a: 1\nb: ä\n".encode("latin-1"), "f.yaml: line 2: not UTF-8 .byte 0xe4.; save it as UTF-8"),
        ("a: 1\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_a_file_without_fields_is_reported(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_fields(file)
    with pytest.raises(UsageError, match=r"cannot be read .*No such file"):
        read_fields(tmp_path / "nowhere.yaml")


def test_a_mark_of_byte_order_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes("a: 1\n".encode("utf-8-sig"))
    assert read_fields(tmp_path / "f.yaml") == {"a": 1}


def test_duplicate_keys_in_json_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"a": {"b": 1, "c": 2, "b": 3}}')
    with pytest.raises(ValueError, match="key 'b' is given twice"):
        read_json(file)
    file.write_text('{"a": {"b": 1}, "b": [1]}')
    assert read_json(file) == {"a": {"b": 1}, "b": [1]}


def test_what_systems_and_editors_leave_behind_is_no_file(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "._a.yaml", ".a.yaml", "a.yaml~", "#a.yaml#", "Thumbs.db", "a.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in files_in(tmp_path, ".yaml", ".yml")] == ["a.yaml", "b.yml"]
    assert files_in(tmp_path / "nowhere", ".yaml") == []


class Sample(Fields):
    whole: int = 1
    number: float = 1.0
    switch: bool = True
    text: str = ""
    many: dict[str, list[int]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"whole": True}, "truth value"),
        ({"whole": "3"}, "is a text, not a number"),
        ({"whole": 3.5}, "integer"),
        ({"number": False}, "truth value"),
        ({"number": "1.5"}, "is a text, not a number"),
        ({"switch": 1}, "write true or false, not 1"),
        ({"switch": "on"}, "write true or false, not 'on'"),
        ({"text": 3}, "string"),
        ({"many": {"a": [1, True]}}, "truth value"),
        ({"other": 1}, "not permitted"),
    ],
)
def test_a_value_of_another_kind_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Sample.model_validate(values)


def test_values_of_their_kind_are_kept() -> None:
    assert Sample.model_validate({"whole": 3, "number": 2, "switch": False, "many": {"a": [1]}}).number == 2.0
