"""Computing the features of ``stamps`` again: what is read or refused, and the agreement with the shipped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from support.needs import encoders
from support.tiny import need

from benchmark.cli import app
from benchmark.data.built.stamps import ARRAYS
from benchmark.data.cards import CARDS_DIR
from benchmark.errors import UsageError
from benchmark.extract import stamps_sources
from benchmark.extract.sets.packaged import Packaged
from benchmark.extract.stamps_sources import PACKAGE_FOLDER, rebuild

SHIPPED = CARDS_DIR / "stamps" / ARRAYS


def folder_of(root: Path, *recordings: str) -> tuple[Path, dict[str, Any]]:
    """A folder as the package unpacks with recordings of one image, and arrays that need two of them."""
    folder = root / PACKAGE_FOLDER
    (folder / "animals").mkdir(parents=True)
    for name in recordings:
        (folder / "animals" / f"cat_desc{name}.ogg").write_bytes(name[:3].encode())
    arrays = {
        "image_path": np.array(["animals/cat"]),
        "languages": np.array(["ca", "en"]),
        "sample_image": np.array([0, 0]),
        "sample_lang": np.array([0, 1]),
    }
    return folder, arrays


def test_samples_are_the_recordings_of_each_image(tmp_path: Path) -> None:
    folder, arrays = folder_of(tmp_path, "", "_ca")
    found = stamps_sources._recordings(stamps_sources._stamps_folder(tmp_path), arrays)
    assert found == [folder / "animals" / "cat_desc_ca.ogg", folder / "animals" / "cat_desc.ogg"]


def test_a_recording_that_is_there_twice_counts_once_and_may_be_a_wav_file(tmp_path: Path) -> None:
    folder, arrays = folder_of(tmp_path, "", "_ca")
    (folder / "animals" / "cat_desc_ca.ogg").rename(folder / "animals" / "cat_desc_ca.wav")
    for name in ("dog_desc.ogg", "dog_desc_ca.ogg"):
        (folder / "animals" / name).write_bytes((folder / "animals" / "cat_desc.ogg").read_bytes())
    arrays["image_path"] = np.array(["animals/cat", "animals/dog"])
    found = stamps_sources._recordings(folder, arrays)
    assert [path.name for path in found] == ["cat_desc_ca.wav", "cat_desc.ogg"]


def test_other_recordings_than_those_of_the_dataset_are_refused(tmp_path: Path) -> None:
    folder, arrays = folder_of(tmp_path, "_ca")
    with pytest.raises(
        UsageError, match=r"1 recordings are missing and 0 are unexpected, among them animals/cat en"
    ):
        stamps_sources._recordings(folder, arrays)


def test_a_folder_without_stamps_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tuxpaint-stamps-default"):
        rebuild(tmp_path, SHIPPED, tmp_path / "x.npz", lambda *_: None)


def test_images_are_placed_on_white_and_are_cut_into_five_views() -> None:
    square = stamps_sources._on_square(Image.new("RGBA", (100, 50), (0, 0, 0, 255)))
    assert square.size == (106, 106)
    pixels = np.asarray(square)
    assert (pixels == 0).all(2).sum() == 100 * 50
    assert (pixels == 255).all(2).sum() == 106**2 - 100 * 50
    views = list(stamps_sources._cut(square))
    assert [view.shape[:2] for view in views] == [(106, 106), (79, 79), (64, 63), (64, 63), (106, 106)]
    np.testing.assert_array_equal(views[4], views[0][:, ::-1])


def test_transparent_parts_of_an_image_are_white(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "animals" / "cat.png")
    square = stamps_sources._on_square(stamps_sources._open(tmp_path, "animals/cat"))
    assert np.asarray(square).min() == 255


@pytest.mark.parametrize(("seconds", "steps"), [(0.3, 3), (1.1, 4), (6.0, 8)])
def test_the_first_steps_of_a_recording_are_taken_and_a_short_one_is_filled_up(
    tmp_path: Path, seconds: float, steps: int
) -> None:
    wave = np.random.default_rng(0).normal(0, 3000, round(seconds * 16_000)).astype(np.int16)
    wavfile.write(tmp_path / "v.wav", 16_000, wave)
    found = list(stamps_sources._first_windows(tmp_path / "v.wav", Packaged.sound))
    assert len(found) == steps
    filled = np.pad(wave, (0, 16_000))
    for i, window in enumerate(found):
        np.testing.assert_allclose(window * 2**15, filled[i * 1280 : i * 1280 + 12_512], atol=1e-6)


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.ogg").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"v\.ogg: cannot be opened.*tuxpaint-stamps-default"):
        list(stamps_sources._first_windows(tmp_path / "v.ogg", Packaged.sound))


def test_a_step_more_than_shipped_is_left_out_and_a_step_fewer_is_refused() -> None:
    recordings = [Path("a.ogg"), Path("b.ogg")]
    kept = stamps_sources._as_shipped([3, 4], np.array([3, 3]), recordings)
    assert kept.tolist() == [True] * 6 + [False]
    for lengths in ([3, 2], [3, 5]):
        with pytest.raises(UsageError, match=r"b\.ogg: has \d time steps, where 3 are shipped"):
            stamps_sources._as_shipped(lengths, np.array([3, 3]), recordings)


def test_bytes_hold_features_to_half_a_step() -> None:
    values = np.random.default_rng(0).normal(size=(20, 5, 7)).astype(np.float32)
    values[:, :, 0] = 3  # a dimension that never changes
    again = stamps_sources.dequantised(stamps_sources._quantised("visual", values), "visual")
    assert (np.abs(again - values) < np.ptp(values, axis=(0, 1)) / 255 * 0.51 + 1e-6).all()
    assert stamps_sources._agreement("visual", again, values).correlation > 0.999
    assert stamps_sources._agreement("visual", again[::-1], values).correlation < 0.5


def test_synthetic_data_have_no_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(
            ["data", "build", "synthetic", "--from-sources", str(tmp_path), "--data-root", str(tmp_path)]
        )
    assert ended.value.code == 2
    assert "is synthetic and has no sources" in capsys.readouterr().err


def with_groups(count: int, shipped: Path, target: Path) -> Path:
    """Write the shipped arrays with so many groups of pictures of each class."""
    with np.load(shipped, allow_pickle=False) as arrays:
        z = {name: arrays[name] for name in arrays.files}
    groups_of: dict[int, list[int]] = {}
    for label, picture in zip(z["sample_class"].tolist(), z["sample_image"].tolist(), strict=True):
        groups = groups_of.setdefault(label, [])
        if (group := int(z["image_group"][picture])) not in groups:
            groups.append(group)
    kept_pictures = np.isin(
        z["image_group"], [group for groups in groups_of.values() for group in groups[:count]]
    )
    kept_samples = kept_pictures[z["sample_image"]]
    lengths = np.diff(z["audio_offset"])
    z["audio"] = z["audio"][np.repeat(kept_samples, lengths)]
    z["audio_offset"] = np.cumsum([0, *lengths[kept_samples]], dtype=z["audio_offset"].dtype)
    z["sample_image"] = (np.cumsum(kept_pictures) - 1)[z["sample_image"]].astype(z["sample_image"].dtype)
    for name in ("sample_class", "sample_image", "sample_lang"):
        z[name] = z[name][kept_samples]
    for name in ("image_group", "image_path", "visual"):
        z[name] = z[name][kept_pictures]
    target.parent.mkdir(parents=True)
    np.savez(target, allow_pickle=False, **z)
    return target


@pytest.mark.slow(90)
def test_the_shipped_features_are_computed_again_from_debians_package(tmp_path: Path) -> None:
    """All recordings are looked for.

    Features are computed for two groups of pictures of each class and their recordings.
    """
    encoders()
    stamps = Path("/") / PACKAGE_FOLDER
    if not stamps.is_dir():
        need("Debian's package tuxpaint-stamps-default is not installed")
    if shutil.which("rsvg-convert") is None:
        need("rsvg-convert is not installed (librsvg2-bin)")
    with np.load(SHIPPED, allow_pickle=False) as arrays:
        assert len(stamps_sources._recordings(stamps, arrays)) == len(arrays["sample_image"])
    some, target = with_groups(2, SHIPPED, tmp_path / "shipped" / ARRAYS), tmp_path / "rebuilt" / ARRAYS
    agreements = rebuild(stamps, some, target, lambda *_: None)
    assert {a.features for a in agreements} == {"visual", "audio", "text_minilm"}
    assert {a.features: a.correlation for a in agreements if a.correlation <= 0.99} == {}
    with np.load(target, allow_pickle=False) as rebuilt, np.load(some, allow_pickle=False) as shipped:
        assert rebuilt.files == shipped.files
        for name in shipped.files:
            assert (rebuilt[name].dtype, rebuilt[name].shape) == (shipped[name].dtype, shipped[name].shape), (
                name
            )
            if not name.startswith(("visual", "audio", "text_minilm")) or name == "audio_offset":
                np.testing.assert_array_equal(rebuilt[name], shipped[name])
