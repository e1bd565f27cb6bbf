"""What the shipped dataset promises: no leak, the splits of its config, its licence, something to learn."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark import registry
from benchmark.data.built.stamps import ARRAYS, StampsSource, build_stamps, divide, read_source
from benchmark.data.cards import CARDS_DIR, Card, find_card, load_cards
from benchmark.data.store import SPLITS, FeatureStore, Floats, Ints
from benchmark.errors import UsageError
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.planning import make_plan

SOURCE = CARDS_DIR / "stamps"


@pytest.fixture(scope="module")
def card() -> Card:
    return load_cards()["stamps"]


@pytest.fixture(scope="module")
def source() -> StampsSource:
    return read_source(SOURCE / ARRAYS)


@pytest.fixture(scope="module")
def store(card: Card, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    target = tmp_path_factory.mktemp("stamps") / "stamps-native.h5"
    build_stamps(card, SOURCE, target)
    return FeatureStore(target)


def test_splits_have_the_classes_and_samples_of_the_card(card: Card, store: FeatureStore) -> None:
    _, expected = card.feature_set(None)
    assert set(expected.classes) == set(expected.samples) == set(SPLITS)
    for p, split in enumerate(SPLITS):
        assert (store.tables().splits == p).sum() == expected.samples[split]
        assert len(store.tables().class_splits[split]) == expected.classes[split]
    assert sum(expected.samples.values()) == len(store.tables().ids) == 5381
    assert (store.audio_dim, store.video_dim, store.text_dim) == (96, 512, 384)


def test_every_class_of_a_split_has_samples_and_no_other_class_has(store: FeatureStore) -> None:
    for p, split in enumerate(SPLITS):
        assert set(store.tables().labels[store.tables().splits == p]) == set(
            store.tables().class_splits[split]
        )


def test_no_group_is_in_two_splits_of_a_class(card: Card, store: FeatureStore) -> None:
    assert card.grouping is not None
    split_of: dict[tuple[int, str], set[int]] = {}
    for sample, label, split in zip(
        store.tables().ids, store.tables().labels, store.tables().splits, strict=True
    ):
        match = re.search(card.grouping, sample)
        assert match is not None
        split_of.setdefault((int(label), match.group(1)), set()).add(int(split))
    assert len(split_of) > 500
    assert all(len(splits) == 1 for splits in split_of.values())


def test_unseen_classes_of_the_test_appear_nowhere_else(store: FeatureStore) -> None:
    unseen = set(store.tables().class_splits["stage_2_test_unseen"])
    assert not unseen & {c for split in SPLITS[:-1] for c in store.tables().class_splits[split]}
    assert not set(store.tables().class_splits["stage_1_train"]) & set(
        store.tables().class_splits["stage_1_val_unseen"]
    )


def test_the_division_is_near_the_intended_fractions(source: StampsSource) -> None:
    splits = divide(source)
    seen = splits[source.class_split[source.labels] == 0]
    assert np.mean(seen == SPLITS.index("stage_2_test_seen")) == pytest.approx(0.2, abs=0.03)
    assert np.mean(seen == SPLITS.index("stage_1_val_seen")) == pytest.approx(0.08, abs=0.03)
    largest_share = max(
        float(np.mean(splits[source.labels == c] == SPLITS.index("stage_2_test_seen")))
        for c in np.flatnonzero(source.class_split < 2)
    )
    assert largest_share < 0.4


def test_sample_ids_are_unique_and_hold_group_image_and_language(store: FeatureStore) -> None:
    assert len(set(store.tables().ids)) == len(store.tables().ids)
    assert all(re.fullmatch(r"g\d{4}_i\d{4}_s\d{5}_[a-z]{2}(_[A-Z]{2})?", i) for i in store.tables().ids)


def test_two_builds_have_one_digest(card: Card, store: FeatureStore, tmp_path: Path) -> None:
    build_stamps(card, SOURCE, tmp_path / "again.h5")
    again = FeatureStore(tmp_path / "again.h5")
    assert (again.digest, again.development_digest) == (store.digest, store.development_digest)


def test_a_sample_keeps_its_frames_label_and_word_vector(source: StampsSource, store: FeatureStore) -> None:
    section = store.open_test("by_name")
    samples = section.samples
    for row in (0, 500, len(samples.labels) - 1):
        numbers = re.match(r"g(\d+)_i(\d+)_s(\d+)_", samples.ids[row])
        assert numbers is not None
        _, image, i = map(int, numbers.groups())
        frames = {m: (d.frames, d.offsets) for m, d in (("audio", samples.audio), ("video", samples.video))}
        for name, expected in (
            ("audio", source.audio[source.audio_offsets[i] : source.audio_offsets[i + 1]]),
            ("video", source.views[image]),
        ):
            array, offsets = frames[name]
            assert array is not None
            assert offsets is not None
            np.testing.assert_array_equal(array[offsets[row] : offsets[row + 1]], expected)
        assert samples.labels[row] == source.labels[i]
        np.testing.assert_array_equal(
            section.classes.vectors[int(source.labels[i])], source.vectors[source.labels[i]]
        )


def test_class_ids_follow_the_sorted_names(store: FeatureStore) -> None:
    assert store.tables().class_names == sorted(store.tables().class_names) == store.tables().vector_names
    assert store.tables().own_vector.tolist() == list(range(50))


def test_licence_and_attribution_are_shipped() -> None:
    assert "GNU GENERAL PUBLIC LICENSE" in (SOURCE / "LICENSE").read_text(encoding="utf-8")
    assert "Bill Kendrick" in (SOURCE / "COPYRIGHT.tuxpaint-stamps").read_text(encoding="utf-8")
    with gzip.open(SOURCE / "CHANGELOG.tuxpaint-stamps.gz", "rt", encoding="utf-8") as f:
        assert "Tux Paint" in f.read()
    readme = (SOURCE / "README.md").read_text(encoding="utf-8")
    assert all(
        word in readme for word in ("version 2", "Not a published benchmark", "COPYRIGHT.tuxpaint-stamps")
    )


def test_the_preset_demo_is_stamps_with_few_epochs_trials_and_seeds() -> None:
    found, preset = find_card("demo", load_cards())
    assert found.name == "stamps"
    assert (found.train["epochs"], preset.trials, preset.seeds) == (6, 8, 7)
    assert not found.published_order


def test_the_demo_searches_few_settings_of_two_methods(tmp_path: Path) -> None:
    for trials, data in ((None, "demo"), (4, "stamps")):
        for unit in make_plan(
            BenchmarkRun(dataset=data, methods="all", trials=trials), registry.load(), tmp_path
        ).units:
            tuned = unit.method.name in ("cjme", "avgzslnet")
            assert unit.tuning.trials == (trials or 8 * tuned)
            assert len(unit.ranges) == 2 if data == "demo" and tuned else len(unit.ranges) >= 1
            assert unit.mode == "corrected"


def test_a_damaged_source_is_a_usage_error(card: Card, tmp_path: Path) -> None:
    (tmp_path / ARRAYS).write_bytes((SOURCE / ARRAYS).read_bytes()[:100_000])
    with pytest.raises(UsageError, match="damaged"):
        build_stamps(card, tmp_path, tmp_path / "x.h5")
    with pytest.raises(UsageError, match="missing"):
        build_stamps(card, tmp_path / "nowhere", tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_pickled_objects_in_the_source_are_refused(card: Card, tmp_path: Path) -> None:
    with np.load(SOURCE / ARRAYS) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    content["class_names"] = content["class_names"].astype(object)
    np.savez(tmp_path / ARRAYS, **content)
    with pytest.raises(UsageError, match="damaged"):
        build_stamps(card, tmp_path, tmp_path / "x.h5")


def test_a_card_with_other_counts_is_refused(card: Card, tmp_path: Path) -> None:
    shutil.copy(SOURCE / ARRAYS, tmp_path)
    features = card.features["native"]
    samples = {**features.samples, "stage_1_train": 1}
    wrong = card.model_copy(update={"features": {"native": features.model_copy(update={"samples": samples})}})
    with pytest.raises(UsageError, match="stage_1_train: samples 2297, config 1"):
        build_stamps(wrong, tmp_path, tmp_path / "x.h5")


def test_images_predict_class_embeddings_of_unseen_classes_above_chance(store: FeatureStore) -> None:
    """Ridge regression of pooled views to class embeddings, trained on stage 2's training splits."""
    development, test = store.development("by_name"), store.open_test("by_name")
    text = development.classes.text(development.samples.labels)
    predicted = _ridge(
        np.asarray(development.samples.video.means), text, np.asarray(test.samples.video.means)
    )

    def accuracy(split: str) -> float:
        rows = test.samples.rows(split)
        classes = test.classes.splits[split]
        return _accuracy(predicted[rows], test.samples.labels[rows], test.classes.text(classes), classes)

    assert accuracy("stage_2_test_unseen") > 2 / 8
    assert accuracy("stage_2_test_seen") > 0.4


def _ridge(x: Floats, y: Floats, new: Floats, penalty: float = 0.1) -> Floats:
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    gram = centred.T @ centred + penalty * len(x) * np.eye(x.shape[1], dtype=x.dtype)
    result: Floats = (new - x_mean) @ np.linalg.solve(gram, centred.T @ (y - y_mean)) + y_mean
    return result


def _accuracy(predicted: Floats, labels: Ints, text: Floats, classes: Ints) -> float:
    """Mean over classes of the fraction whose nearest class embedding is the right one."""
    distances = ((predicted[:, None] - text[None]) ** 2).sum(axis=-1)
    right = classes[distances.argmin(axis=1)] == labels
    return float(np.mean([right[labels == c].mean() for c in classes]))
