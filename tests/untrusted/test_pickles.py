"""Untrusted pickles: plain data and arrays are loaded; everything else is refused by name and not run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from benchmark.errors import UsageError
from benchmark.untrusted.arrays import load_npy_dict, load_pickle
from benchmark.untrusted.pickles import RefusedPickle, UnreadableFile


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
def test_plain_content_loads_as_written_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "features": [
            np.arange(6, dtype="f4").reshape(2, 3),
            np.asfortranarray(np.ones((2, 3))),
            np.zeros((0, 3), "f2"),
        ],
        "video_names": [b"v_a\xff", b"", "naïve"],
        "fps": [25, 29.97, np.float64(25), np.int32(3)],
        "rest": [
            (1, 2, 3, 4),
            None,
            True,
            10**30,
            {1, 2},
            frozenset([3]),
            bytearray(b"ab"),
            np.array(["ab", "c"]),
        ],
    }
    path = tmp_path / "class.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    expected = pickle.loads(path.read_bytes())
    assert same(load_pickle(path), expected)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_names_of_numpy_1_and_2_both_load(tmp_path: Path, protocol: int) -> None:
    x = np.arange(12, dtype="f4").reshape(3, 4)
    path = tmp_path / "class.pkl"
    written = pickle.dumps([x, np.float32(2)], protocol, fix_imports=False)
    swapped = written.replace(b"numpy._core.", b"numpy.core.") if protocol < 4 else _numpy_1_names(written)
    path.write_bytes(swapped)
    assert swapped != written
    assert same(load_pickle(path), [x, np.float32(2)])


def _numpy_1_names(written: bytes) -> bytes:
    """A pickle of protocol 4 or 5 with numpy 1's module names: frames dropped, string lengths corrected."""
    out, i = written[:2], 2
    while i < len(written):
        if written[i] == pickle.FRAME[0] and i == 2:
            i += 9
            continue
        if written[i : i + 1] == pickle.SHORT_BINUNICODE and written[i + 2 :].startswith(b"numpy._core."):
            name = written[i + 2 : i + 2 + written[i + 1]].replace(b"numpy._core.", b"numpy.core.")
            out += pickle.SHORT_BINUNICODE + bytes([len(name)]) + name
            i += 2 + written[i + 1]
            continue
        out += written[i : i + 1]
        i += 1
    return out


@settings(max_examples=60, deadline=None)
@given(
    x=npst.arrays(
        st.sampled_from(["f2", "f4", "f8", ">f4", "i8", "u1", "?", "S3", "U2"]), npst.array_shapes(min_side=0)
    ),
    fortran=st.booleans(),
    protocol=st.integers(0, 5),
)
def test_any_plain_array_loads_as_written(
    tmp_path_factory: pytest.TempPathFactory, x: np.ndarray[Any, Any], fortran: bool, protocol: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pkl"
    path.write_bytes(pickle.dumps(np.asfortranarray(x) if fortran else x, protocol))
    assert same(load_pickle(path), pickle.loads(path.read_bytes()))


class Calls:
    """An object whose pickle calls ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def by_name(module: str, name: str, arguments: bytes = b")") -> bytes:
    """The pickle of a call of a global, which need not exist here."""
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + arguments + b"R."


def wrapped(payload: Any) -> bytes:
    return pickle.dumps({"features": [payload], "video_names": [b"a"]})


def attacks(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles by name, each with what the refusal must name."""
    touch = f"touch {canary}"
    text = pickle.dumps(touch, 2)[2:-1]
    open_canary = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": (wrapped(Calls(os.system, touch)), "system"),
        "subprocess": (wrapped(Calls(subprocess.call, ["touch", str(canary)])), "subprocess.call"),
        "eval": (wrapped(Calls(eval, open_canary)), "builtins.eval"),
        "exec": (wrapped(Calls(exec, open_canary)), "builtins.exec"),
        "getattr": (wrapped(Calls(getattr, "x", "upper")), "builtins.getattr"),
        "open": (wrapped(Calls(open, str(canary), "w")), "io.open"),
        "numpy.testing": (by_name("numpy.testing._private.utils", "runstring", text + b"}\x86"), "runstring"),
        "numpy.load": (wrapped(Calls(np.load, str(canary))), "load"),
        "numpy.f2py by dots": (by_name("numpy", "f2py.os.system", text + b"\x85"), "numpy.f2py.os.system"),
        "dots after an allowed name": (
            b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
            "numpy.ndarray.tofile",
        ),
        "functools.partial": (
            by_name("functools", "partial", b"c__builtin__\neval\n\x85"),
            "functools.partial",
        ),
        "python 2's builtins": (by_name("__builtin__", "eval", text + b"\x85"), "__builtin__.eval"),
        "instance by INST": (b"(S'" + touch.encode() + b"'\nios\nsystem\n.", "an instance"),
        "instance by OBJ": (b"(cos\nsystem\nS'" + touch.encode() + b"'\no.", "os.system"),
        "instance by NEWOBJ": (b"\x80\x02cnumpy\nndarray\n(K\x01t\x81.", "an instance"),
        "instance by NEWOBJ_EX": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "an instance"),
        "object state": (b"\x80\x02}}U\x01aK\x01sb.", "state for"),
        "call of an array": (b"\x80\x02K\x05)R.", "a call of 5"),
        "call of ndarray itself": (
            by_name("numpy", "ndarray", b"I1000000000\n\x85\x85"),
            "a call of '<numpy.ndarray>'",
        ),
        "persistent id": (b"\x80\x02Pwhatever\n.", "persistent id"),
        "extension": (b"\x80\x02\x82\x01.", "extension code 1"),
        "record dtype": (by_name("numpy", "dtype", b"U\x05f4,f4\x85"), "numpy dtype"),
        "huge dtype": (by_name("numpy", "dtype", b"U\x0bV1000000000\x85"), "numpy dtype"),
        "object scalar": (
            b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02O8\x85RK\x01\x86R.",
            "numpy scalar",
        ),
    }


@pytest.mark.parametrize("attack", attacks(Path("canary")))
def test_attacks_are_refused_by_name_and_nothing_runs(tmp_path: Path, attack: str) -> None:
    canary = tmp_path / "canary"
    content, named = attacks(canary)[attack]
    path = tmp_path / "class.pkl"
    path.write_bytes(content)
    with pytest.raises(RefusedPickle) as refusal:
        load_pickle(path)
    assert named in refusal.value.name
    assert str(path) in str(refusal.value)
    assert not canary.exists()


def test_the_canary_would_be_touched_by_an_ordinary_unpickler(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(attacks(canary)["os.system"][0])
    assert canary.exists()


HUGE = struct.pack("<Q", 2**40)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
FLOATS = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
CLAIMS = {
    "array by its shape": b"\x80\x02" + ARRAY + b"J\xff\xff\xff\x7f\x85U\x01b\x87R.",
    "array by its state": b"\x80\x02"
    + ARRAY
    + b"K\x00\x85U\x01b\x87R(K\x01J\xff\xff\xff\x7f\x85"
    + FLOATS
    + b"\x89U\x04abcdtb.",
    "array of nothing": (
        b"\x80\x02"
        + ARRAY
        + b"K\x00\x85U\x01b\x87R(K\x01J\xff\xff\xff\x7f\x85"
        + FLOATS.replace(b"f4", b"S0")
        + b"\x89U\x00tb."
    ),
    "bytes by their number": b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "bytearray by its number": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "BINBYTES8": b"\x80\x04\x8e" + HUGE + b"a.",
    "BINUNICODE8": b"\x80\x04\x8d" + HUGE + b"a.",
    "BYTEARRAY8": b"\x80\x05\x96" + HUGE + b"a.",
    "FRAME": b"\x80\x04\x95" + HUGE + b"a.",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_small_file_cannot_claim_much_memory(tmp_path: Path, claim: str) -> None:
    path = tmp_path / "class.pkl"
    path.write_bytes(CLAIMS[claim])
    tracemalloc.start()
    try:
        if claim == "memo":  # a sparse memo costs nothing here, so the file is merely odd
            assert load_pickle(path) == 1
        else:
            with pytest.raises(UsageError, match=r"class\.pkl"):
                load_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_pickle_loads_or_is_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    protocol = data.draw(st.integers(0, 5))
    content = {"features": [np.ones((2, 3), "f4")], "video_names": [b"a"], "fps": [25]}
    written = bytearray(pickle.dumps(content, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(written[: data.draw(st.integers(0, len(written)))])
    message = "loaded"
    try:
        load_pickle(path)
    except UsageError as error:
        message = str(error)
    assert message == "loaded" or str(path) in message


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x63."])
def test_what_is_no_pickle_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "class.pkl"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=r"class\.pkl"):
        load_pickle(path)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no such file; check the path"):
        load_pickle(tmp_path / "none.pkl")


def npy(content: object) -> bytes:
    file = io.BytesIO()
    np.save(file, content, allow_pickle=True)  # type: ignore[arg-type]
    return file.getvalue()


def test_a_dict_of_word_vectors_loads_as_numpy_reads_it(tmp_path: Path) -> None:
    vectors = {"a": np.arange(3, dtype="f4"), "b, c": np.ones(3)}
    path = tmp_path / "text.npy"
    path.write_bytes(npy(vectors))
    loaded = load_npy_dict(path)
    assert loaded.keys() == vectors.keys()
    assert all(v.dtype == np.float32 and np.array_equal(v, vectors[k]) for k, v in loaded.items())


def test_word_vectors_that_would_run_something_are_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "text.npy"
    path.write_bytes(npy({"a": Calls(os.system, f"touch {canary}")}))
    with pytest.raises(RefusedPickle, match="system"):
        load_npy_dict(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy(np.ones(3)),
        npy([1]),
        npy({1: np.ones(3)}),
        npy({"a": 1}),
        npy({"a": np.ones(3)})[:-20],
    ],
)
def test_what_is_no_dict_of_vectors_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.npy"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=r"text\.npy"):
        load_npy_dict(path)
