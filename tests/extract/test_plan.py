"""Which videos are found for the samples of lists: with names as the three published datasets have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.video_set import VideoSet

from benchmark.data.cards import load_cards
from benchmark.data.importing.findings import FIXES, ImportProblems
from benchmark.data.store import SPLITS
from benchmark.errors import UsageError
from benchmark.extract.extraction import Shard
from benchmark.extract.plan import make_plan

LISTS = "avgzsl_benchmark_datasets"
NAMES = {  # dataset -> a listed sample, and the file that its publisher or the usual download makes of it
    "ucf": ("v_HandStandPushups_g01_c01", "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi"),
    "vggsound": ("-8lzdlqUtJQ_000061", "train/-8lzdlqUtJQ_000061.mp4"),
    "activitynet": ("-IkL9Kq9zfQ_0", "-IkL9Kq9zfQ_0.mkv"),
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("features", ["cls", "main"])
@pytest.mark.parametrize("name", NAMES)
def test_videos_of_the_published_data_sets_are_found(
    shared: Path, tmp_path: Path, name: str, features: str
) -> None:
    card = load_cards()[name]
    sample, file = NAMES[name]
    touch(tmp_path / file)
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "unlisted.mp4")
    assert card.official is not None
    plan = make_plan(card, features, tmp_path, shared / "official" / LISTS / card.official.folder, None)
    assert [(w.sample, w.video) for w in plan.wanted] == [(sample, tmp_path / file)]
    assert sample in plan.lists.splits[plan.wanted[0].split].kept()
    expected = sum(card.features[features].samples[split] for split in SPLITS)
    assert len(plan.listed) == expected == len(plan.rows) + 1


def test_shards_divide_the_lists_whatever_videos_are_there(shared: Path, tmp_path: Path) -> None:
    card = load_cards()["ucf"]
    lists = shared / "official" / LISTS / "UCF"
    touch(tmp_path / "a" / "v_Archery_g01_c01.avi")
    samples = make_plan(card, "cls", tmp_path / "a", lists, None).listed
    for sample in samples:
        touch(tmp_path / "b" / f"{sample}.avi")
    whole = make_plan(card, "cls", tmp_path / "b", lists, None)
    shares = [{w.sample for w in Shard(i, 4).share(whole)} for i in range(1, 5)]
    assert sorted(sample for share in shares for sample in share) == sorted(samples)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    few = make_plan(card, "cls", tmp_path / "a", lists, None)
    owners = [i for i, share in enumerate(shares) if "v_Archery_g01_c01" in share]
    assert [bool(Shard(i, 4).share(few)) for i in range(1, 5)] == [i in owners for i in range(4)]


def test_folders_that_links_lead_to_again_are_searched_once(video_set: VideoSet) -> None:
    (video_set.videos / "again").symlink_to(".")
    (video_set.videos / "Archery" / "up").symlink_to("..")
    plan = make_plan(video_set.card(), "tiny", video_set.videos, video_set.lists, None)
    assert {w.sample: w.video for w in plan.wanted} == video_set.files
    assert plan.rows == []


def test_of_many_files_of_one_name_a_few_are_named(video_set: VideoSet) -> None:
    sample = next(iter(video_set.samples))
    for i in range(1, 6):
        touch(video_set.videos / f"z{i}" / f"{sample}.mp4")
    (row,) = make_plan(video_set.card(), "tiny", video_set.videos, video_set.lists, None).rows
    named = ", ".join(f"z{i}/{sample}.mp4" for i in (1, 2, 3))
    assert row.what == f"not read, of the same name: {named} and 2 more"


def test_a_folder_without_any_listed_video_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no video of [\d,]+ listed samples; name videos after samples"):
        make_plan(load_cards()["ucf"], "cls", tmp_path, shared / "official" / LISTS / "UCF", None)


def test_a_split_without_sample_list_is_reported(video_set: VideoSet) -> None:
    (video_set.lists / "class-split" / "tiny_split" / "stage_1_val_seen.csv").unlink()
    with pytest.raises(ImportProblems, match="stage_1_val_seen") as caught:
        make_plan(video_set.card(), "tiny", video_set.videos, video_set.lists, None)
    assert [(problem.kind, problem.fix) for problem in caught.value.problems] == [
        ("missing sample list", FIXES["missing sample list"])
    ]
