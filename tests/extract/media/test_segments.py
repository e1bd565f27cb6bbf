"""Which samples are cut from which seconds of which whole videos, and what of it can go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.extracting import Command
from support.video_set import VideoSet
from support.videos import Clip, write_video

from benchmark.data.cards import load_cards
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.extract.media.segments import Cut, Span, annotated_segments, named_clips
from benchmark.extract.plan import make_plan


def annotate(path: Path, **videos: list[tuple[float, float, str]]) -> Path:
    """A file of the form in which ActivityNet publishes its annotations."""
    database = {
        video: {
            "duration": 100.0,
            "subset": "training",
            "resolution": "320x240",
            "url": f"https://www.youtube.com/watch?v={video}",
            "annotations": [{"segment": [start, end], "label": label} for start, end, label in segments],
        }
        for video, segments in videos.items()
    }
    path.write_text(json.dumps({"version": "VERSION 1.3", "taxonomy": [], "database": database}))
    return path


def test_the_number_of_a_segment_is_its_place_in_the_file(tmp_path: Path) -> None:
    segments = [(50.5, 60, "Canoeing"), (1, 9.25, "Canoeing"), (4, 4, "Canoeing"), (-1, 3, "Canoeing")]
    rule = annotated_segments(annotate(tmp_path / "a.json", **{"-a_b": segments}))
    assert rule("-a_b_0") == Cut("-a_b", Span(50.5, 60.0), label="Canoeing")
    assert rule("-a_b_1") == Cut("-a_b", Span(1.0, 9.25), label="Canoeing")
    assert rule("-a_b_2") == Cut("-a_b", None, "a.json: segment 2 of -a_b is from 4 s to 4 s")
    assert rule("-a_b_3") == Cut("-a_b", None, "a.json: segment 3 of -a_b is from -1 s to 3 s")
    assert rule("-a_b_4") == Cut("-a_b", None, "a.json has no segment 4 of -a_b: it has 4, counted from 0")
    assert rule("other_0") == Cut("other", None, "a.json has no video other")
    assert rule("none") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "(all): Invalid JSON"),
        (b'{"database": ', "(all): Invalid JSON"),
        (b"[" * 100_000, "(all): Invalid JSON"),
        (b"\xff\xfe", "(all): Invalid JSON"),
        (b"[]", "(all): Input should be"),
        (b'{"version": 1}', "database: is required"),
        (b'{"database": {"a": {}}}', "database.a.annotations: is required"),
        (
            b'{"database": {"a": {"annotations": [{"segment": [1]}]}}}',
            "database.a.annotations.0.segment.1: is required",
        ),
        (
            b'{"database": {"a": {"annotations": [{"segment": [1, "x"]}]}}}',
            "database.a.annotations.0.segment.1",
        ),
        (
            b'{"database": {"a": {"annotations": [{"segment": [1, NaN]}]}}}',
            "database.a.annotations.0.segment.1",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_with_place_and_fix(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="download the file again, or fix it") as caught:
        annotated_segments(path)
    assert f"--segments {path}: {told}" in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read: no such file; check the path"):
        annotated_segments(tmp_path / "b.json")


def test_many_faults_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"database": {f"v{i}": {} for i in range(50)}}))
    with pytest.raises(UsageError, match="and 47 more"):
        annotated_segments(path)


def test_sample_ids_of_vggsound_say_where_a_clip_begins() -> None:
    rule = named_clips(load_cards()["vggsound"])
    assert rule is not None
    assert rule("-8lzdlqUtJQ_000061") == Cut("-8lzdlqUtJQ", Span(61.0, 71.0))
    assert rule("other") is None
    assert [named_clips(load_cards()[name]) for name in ("ucf", "activitynet", "stamps")] == [None] * 3


def segmented(made: VideoSet, file: Path, *, empty: bool = False) -> dict[str, Any]:
    """Make each sample the second segment of a whole video, ``v_<id>``; returns the annotations."""
    annotations = {}
    for number, (sample, (_, name)) in enumerate(list(made.samples.items())):
        made.files.pop(sample).unlink()
        path = made.videos / f"v_{sample}.mp4"
        path.touch() if empty else write_video(path, Clip(seconds=4, tone=200.0 + 50 * number))
        annotations[sample] = [(0.0, 1.0, name), (1.7, 2.9, name)]
    made.samples = {f"{sample}_1": where for sample, where in made.samples.items()}
    for path in (made.lists / "class-split" / "tiny_split").glob("*.csv"):
        path.write_text("".join(line.replace(",", "_1,", line.startswith("v_")) for line in path.open()))
    annotate(file, **annotations)
    return annotations


def test_segments_become_a_store_and_are_reported_if_they_are_missing(
    command: Command,
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.json"
    annotations = segmented(command.video_set, file)
    said = command("--segments", file)
    assert (said["extracted"], said["problems"]) == (9, [])
    assert set(FeatureStore(command.store).tables().ids) == command.video_set.samples.keys()
    first, second, third, *_ = annotations
    again = command("--segments", file)
    assert (again["resumed"], again["digest"]) == (9, said["digest"])

    name, videos = annotations[first][1][2], FeatureStore(command.store).provenance["videos"]
    annotations[first][1] = (1.7, 2.901, name)
    same = command("--segments", annotate(file, **annotations))
    assert (same["extracted"], same["digest"]) == (1, said["digest"])
    assert FeatureStore(command.store).provenance["videos"] != videos
    annotations[first][1] = (1.2, 2.9, name)
    changed = command("--segments", annotate(file, **annotations))
    assert (changed["extracted"], changed["resumed"]) == (1, 8)
    assert changed["digest"] != said["digest"]

    annotations[first][1] = (3.5, 9.5, "Another class")
    annotations[second][1] = (70.0, 90.0, annotations[second][1][2])
    annotations[third].pop()
    command("--segments", annotate(file, **annotations), code=1)
    told = command.problems()
    assert told[f"{second}_1"] == ("no frame from 70 s to 90 s: its frames end at 4.0 s", True)
    assert told[f"{third}_1"] == (f"a.json has no segment 1 of {third}: it has 1, counted from 0", True)


def test_a_video_of_its_own_comes_first_and_other_labels_are_reported(
    video_set: VideoSet, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    annotations = segmented(video_set, file, empty=True)
    first, second, third, *_ = annotations
    own = video_set.videos / f"{first}_1.mp4"
    own.touch()
    annotations[second][1] = (1.7, 2.9, "Another class")
    annotations[third][1] = (1.7, 2.9, annotations[third][1][2].upper() + "!")
    (video_set.videos / f"v_{third}.mp4").rename(video_set.videos / f"{third}.webm")
    plan = make_plan(
        video_set.card(), "tiny", video_set.videos, video_set.lists, None, annotate(file, **annotations)
    )
    found = {w.sample: (w.video, w.span) for w in plan.wanted}
    assert found[f"{first}_1"] == (own, None)
    assert found[f"{second}_1"] == (video_set.videos / f"v_{second}.mp4", Span(1.7, 2.9))
    assert found[f"{third}_1"][0].name == f"{third}.webm"
    name = annotations[second][0][2]
    assert [(row.sample, row.what, row.left_out) for row in plan.rows] == [
        (
            f"{second}_1",
            f"the segment is annotated as 'Another class', the sample is listed as {name!r}",
            False,
        )
    ]


def test_a_whole_video_that_is_not_there_is_named(video_set: VideoSet, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    first = next(iter(segmented(video_set, file, empty=True)))
    (video_set.videos / f"v_{first}.mp4").unlink()
    plan = make_plan(video_set.card(), "tiny", video_set.videos, video_set.lists, None, file)
    assert [(row.sample, row.what) for row in plan.rows] == [
        (f"{first}_1", f"no video of this name, nor of the whole video {first}")
    ]
