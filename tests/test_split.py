"""The split: nothing ever moves, no group and no near-duplicates in two splits, whatever comes in whatever order."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import artifacts, assignments
from pipeline.artifacts import Workspace
from pipeline.assign import EXCLUDED, Division, assign
from pipeline.assignments import Kept
from pipeline.errors import DataError, IntegrityError
from pipeline.params import Params, Split
from pipeline.placement import Image
from pipeline.split import run

Pairs = Sequence[tuple[str, str]]


def image(
    name: str, group: str | None = None, label: str = "pit", official: str | None = None, **more: object
) -> Image:
    values = {"path": f"{name}.jpg", "domain": "line-a", "decodable": True} | more
    return Image(image_id=name, label=label, group=group or name, official=official, **values)  # type: ignore[arg-type]


def divide(
    images: Sequence[Image],
    kept: Sequence[Kept] = (),
    near: Pairs = (),
    params: Split | None = None,
    seed: int = 0,
) -> Division:
    return assign(images, kept, params or Split(), seed, near)


def remember(images: Sequence[Image], division: Division, kept: Sequence[Kept] = ()) -> list[Kept]:
    places = {entry.image_id: entry for entry in kept}
    for one, split in zip(images, division.splits, strict=True):
        if split != EXCLUDED:
            places[one.image_id] = Kept(one.image_id, one.group, split, "", "")
    return list(places.values())


def kept(name: str, split: str, group: str | None = None) -> Kept:
    return Kept(name, group or name, split, "", "")


# --- property tests: a small world of images, groups and near-duplicates, arriving in batches

images_strategy = st.lists(
    st.tuples(
        st.integers(0, 30),  # image id: small, so that copies occur
        st.integers(0, 12),  # group
        st.sampled_from(["pit", "crack"]),
        st.sampled_from(["line-a", "line-b"]),
        st.sampled_from([None, None, None, "train", "validation", "test"]),
    ),
    max_size=40,
)
pairs_strategy = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12)


def world(rows: list[tuple[int, int, str, str, str | None]], *, official: bool) -> list[Image]:
    return [
        image(f"i{i}", f"g{g}", label, given if official else None, domain=domain, path=f"{n:03}.jpg")
        for n, (i, g, label, domain, given) in enumerate(rows)
    ]


@settings(max_examples=80, deadline=None)
@given(
    images_strategy,
    pairs_strategy,
    st.lists(st.integers(0, 40), max_size=3),
    st.randoms(use_true_random=False),
)
def test_no_image_ever_moves_and_no_group_is_torn(
    rows: list[tuple[int, int, str, str, str | None]],
    pairs: list[tuple[int, int]],
    cuts: list[int],
    chance: random.Random,
) -> None:
    # One group and one label per image: the same bytes in another group or class are tested below.
    first = {row[0]: row for row in reversed(rows)}
    everything = world([first[row[0]] for row in rows], official=False)
    chance.shuffle(everything)
    near = [(f"i{a}", f"i{b}") for a, b in pairs if a != b]
    places: dict[str, str] = {}
    memory: list[Kept] = []
    for end in [*sorted(cuts), len(everything)]:
        arrived = everything[:end]
        shuffled = chance.sample(arrived, len(arrived))
        division, again = divide(arrived, memory, near), divide(shuffled, memory, near)
        by_path = {one.path: split for one, split in zip(arrived, division.splits, strict=True)}
        assert by_path == {one.path: split for one, split in zip(shuffled, again.splits, strict=True)}
        groups: dict[str, set[str]] = {}
        for one, split, group in zip(arrived, division.splits, division.groups, strict=True):
            if split != EXCLUDED:
                assert places.setdefault(one.image_id, split) == split, f"{one.image_id} moved"
                groups.setdefault(one.group, set()).add(split)
                groups.setdefault(group, set()).add(split)
        assert all(len(splits) == 1 for splits in groups.values())
        assert all(places.get(a, "") == places.get(b, "") for a, b in near if a in places and b in places)
        memory = remember(arrived, division, memory)


@settings(max_examples=60, deadline=None)
@given(images_strategy, pairs_strategy, st.integers(0, 40))
def test_any_input_is_divided_and_nothing_kept_moves(
    rows: list[tuple[int, int, str, str, str | None]], pairs: list[tuple[int, int]], cut: int
) -> None:
    """Copies in other groups and classes, official splits, near-duplicates across them: no crash, no move."""
    everything = world(rows, official=True)
    near = [(f"i{a}", f"i{b}") for a, b in pairs]
    refused = ""
    try:
        before = divide(everything[:cut], (), near)
        memory = remember(everything[:cut], before)
        after = divide(everything, memory, near)
    except (DataError, IntegrityError) as error:
        refused = str(error)
    if refused:
        assert "data/assignments.csv" in refused  # it says how to go on
        return
    places = {entry.image_id: entry.split for entry in memory}
    for one, split in zip(everything, after.splits, strict=True):
        assert split in (EXCLUDED, places.get(one.image_id, split))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 5), st.integers(1, 4))
def test_each_class_gets_its_share(sizes: list[int], seed: int, batches: int) -> None:
    everything = [image(f"c{c}-{n}", label=f"class {c}") for c, size in enumerate(sizes) for n in range(size)]
    memory: list[Kept] = []
    for batch in range(1, batches + 1):
        arrived = everything[: len(everything) * batch // batches]
        memory = remember(arrived, divide(arrived, memory, seed=seed), memory)
    label = {one.image_id: one.label for one in everything}
    counts = Counter((label[entry.image_id], entry.split) for entry in memory)
    for c, size in enumerate(sizes):
        for split, share in (("train", 0.65), ("validation", 0.15), ("test", 0.2)):
            assert abs(counts[f"class {c}", split] - share * size) <= 1.5
        if size >= 3:
            assert counts[f"class {c}", "test"] >= 1


def test_groups_stay_whole_and_near_their_share() -> None:
    chance = random.Random(1)
    sizes = [chance.randint(1, 8) for _ in range(200)]
    everything = [
        image(f"{g}-{n}", f"g{g}", label=f"class {g % 3}")
        for g, size in enumerate(sizes)
        for n in range(size)
    ]
    division = divide(everything)
    for label in range(3):
        mine = [
            s for one, s in zip(everything, division.splits, strict=True) if one.label == f"class {label}"
        ]
        assert abs(mine.count("test") - 0.2 * len(mine)) <= 8
        assert abs(mine.count("validation") - 0.15 * len(mine)) <= 8


def test_the_seed_decides_and_the_hash_is_stable() -> None:
    everything = [image(f"i{n}") for n in range(100)]
    assert divide(everything, seed=0) == divide(everything, seed=0)
    assert divide(everything, seed=0).splits != divide(everything, seed=1).splits


# --- single rules


def test_copies_conflicts_and_undecodable_images_are_left_out() -> None:
    images = [
        image("a", path="1.jpg"),
        image("a", path="2.jpg"),
        image("b", label="pit", path="3.jpg"),
        image("b", label="crack", path="4.jpg"),
        image("c", decodable=False),
    ]
    division = divide(images)
    assert division.reasons == ["assigned", "duplicate", "conflict", "conflict", "undecodable"]
    assert [split == EXCLUDED for split in division.splits] == [False, True, True, True, True]


def test_copies_tie_their_groups_together() -> None:
    for seed in range(10):
        images = [
            image("a", "left", path="1.jpg"),
            image("a", "right", path="2.jpg"),
            image("b", "right"),
            image("c", "left"),
        ]
        division = divide(images, seed=seed)
        assert len({division.splits[row] for row in (0, 2, 3)}) == 1
        assert set(division.groups) == {"left"}


def test_near_duplicates_join_unless_ignored() -> None:
    images = [image(f"i{n}") for n in range(40)]
    near = [("i0", f"i{n}") for n in range(1, 20)]
    joined = divide(images, near=near)
    assert len(set(joined.splits[:20])) == 1
    assert set(joined.groups[:20]) == {"i0"}
    assert divide(images, near=near, params=Split(near_duplicates="ignore")) == divide(images)


def test_a_newcomer_joins_what_it_is_near_to() -> None:
    division = divide(
        [image("new"), image("sibling", "part")],
        [kept("old", "test"), kept("shot", "validation", "part")],
        [("new", "old")],
    )
    assert division.splits == ["test", "validation"]
    assert division.reasons == ["joined", "joined"]


def test_a_newcomer_near_to_two_splits_is_left_out_and_only_it() -> None:
    images = [image("a"), image("b"), image("new"), image("free")]
    memory = [kept("a", "train"), kept("b", "test")]
    division = divide(images, memory, [("new", "a"), ("new", "b"), ("new", "free")])
    assert division.splits[:3] == ["train", "test", EXCLUDED]
    assert division.reasons == ["kept", "kept", "conflict", "assigned"]


def test_a_newcomer_whose_group_and_near_duplicate_disagree_is_left_out() -> None:
    images = [image("a", "part"), image("b"), image("new", "part")]
    division = divide(images, [kept("a", "train", "part"), kept("b", "test")], [("new", "b")])
    assert division.splits == ["train", "test", EXCLUDED]


def test_an_image_that_has_left_still_holds_its_place() -> None:
    memory = [kept("gone", "train", "part")]
    assert divide([image("gone", "part")], memory).splits == ["train"]
    assert divide([image("shot", "part")], memory).splits == ["train"]
    assert divide([image("copy")], memory, [("copy", "gone")]).splits == ["train"]


def test_an_official_split_is_honoured() -> None:
    images = [
        image(f"{split}{n}", official=split) for split in ("train", "validation", "test") for n in range(5)
    ]
    division = divide(images)
    assert division.splits == [one.official for one in images]
    assert set(division.reasons) == {"official"}


@pytest.mark.parametrize(
    ("given", "carved"), [({"train", "test"}, {"validation"}), ({"train"}, {"validation", "test"})]
)
def test_what_an_official_split_lacks_is_carved_out_of_train_by_group(
    given: set[str], carved: set[str]
) -> None:
    images = [
        image(f"{split}{n}", f"{split}-part{n // 2}", official=split)
        for split in sorted(given)
        for n in range(100)
    ]
    division = divide(images)
    for one, split in zip(images, division.splits, strict=True):
        assert split == one.official or (one.official == "train" and split in carved)
    share = Counter(division.splits)
    assert 12 <= share["validation"] <= 24
    assert share["train"] >= 60
    groups = {(one.group, split) for one, split in zip(images, division.splits, strict=True)}
    assert len(groups) == len({group for group, _ in groups})
    # A second look, with the official validation part that has meanwhile come: nothing moves.
    more = [*images, image("late", official="validation")]
    after = divide(more, remember(images, division))
    assert after.splits == [*division.splits, "validation"]


def test_free_images_beside_official_ones_need_no_carving() -> None:
    images = [image(f"o{n}", official="train") for n in range(20)] + [
        image(f"f{n}", domain="line-b") for n in range(20)
    ]
    division = divide(images)
    assert set(division.splits[:20]) == {"train"}
    assert set(division.splits[20:]) == {"train", "validation", "test"}


def test_an_official_newcomer_that_contradicts_a_kept_near_duplicate_is_left_out() -> None:
    images = [image("old"), image("new", official="test")]
    division = divide(images, [kept("old", "train")], [("old", "new")])
    assert division.splits == ["train", EXCLUDED]
    assert division.reasons[1] == "conflict"


def test_an_official_split_that_contradicts_the_kept_one_is_an_error() -> None:
    with pytest.raises(DataError, match=r"officially test.*kept it in train.*remove data/assignments.csv"):
        divide([image("a", official="test")], [kept("a", "train")])


def test_kept_places_that_tear_a_group_or_near_duplicates_are_an_error() -> None:
    memory = [kept("a", "train"), kept("b", "test")]
    with pytest.raises(IntegrityError, match=r"group 'part'.*data\.group_pattern"):
        divide([image("a", "part"), image("b", "part")], memory)
    with pytest.raises(IntegrityError, match=r"near-duplicates.*near_duplicate_bits"):
        divide([image("a"), image("b")], memory, [("a", "b")])


# --- the verb, on disk


def manifest(images: list[Image], hashes: dict[str, str] | None = None) -> pa.Table:
    rows = []
    for number, one in enumerate(images):
        row: dict[str, object] = dict.fromkeys(artifacts.MANIFEST.names)
        far = f"{random.Random(number).getrandbits(256):064x}"
        row |= {
            "image_id": one.image_id,
            "path": one.path,
            "label": one.label,
            "domain": one.domain,
            "group": one.group,
            "split": one.official,
            "dhash": (hashes or {}).get(one.image_id, far) if one.decodable else None,
            "error": None if one.decodable else "truncated",
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=artifacts.MANIFEST)


def test_the_verb_keeps_its_assignments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    images = [image(f"i{n:03}", f"=g,{n // 3}", label=["pit", "=cmd()"][n % 2]) for n in range(60)]
    artifacts.write_table(workspace.manifest, manifest(images))
    assert run(workspace, Params()) == 0
    before = {
        row["image_id"]: row["split"]
        for row in artifacts.read_table(workspace.split, artifacts.SPLIT).to_pylist()
    }
    first = workspace.assignments.read_bytes()
    assert run(workspace, Params()) == 0
    assert workspace.assignments.read_bytes() == first
    more = [*images, *(image(f"j{n}") for n in range(30)), replace(images[0], path="copy.jpg")]
    artifacts.write_table(workspace.manifest, manifest(more))
    capsys.readouterr()
    assert run(workspace, Params()) == 0
    after = artifacts.read_table(workspace.split, artifacts.SPLIT)
    assert after.num_rows == len(more)
    rows = [row for row in after.to_pylist() if row["reason"] != "duplicate"]
    assert {row["image_id"]: row["split"] for row in rows if row["image_id"] in before} == before
    printed = capsys.readouterr().out
    assert "=cmd()" in printed
    assert "left out, duplicate" in printed
    assert len(assignments.load(workspace.assignments)) == 90


def test_the_verb_joins_near_duplicates_of_images_that_have_left(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    images = [image(f"i{n}") for n in range(40)]
    hashes = {one.image_id: f"{random.Random(n).getrandbits(256):064x}" for n, one in enumerate(images)}
    artifacts.write_table(workspace.manifest, manifest(images, hashes))
    run(workspace, Params())
    places = {entry.image_id: entry.split for entry in assignments.load(workspace.assignments)}
    copies = [image(f"copy{n}") for n in range(40)]
    near = {f"copy{n}": f"{int(hashes[f'i{n}'], 16) ^ 0b101:064x}" for n in range(40)}
    artifacts.write_table(workspace.manifest, manifest(copies, near))
    run(workspace, Params())
    after = {entry.image_id: entry.split for entry in assignments.load(workspace.assignments)}
    assert [after[f"copy{n}"] for n in range(40)] == [places[f"i{n}"] for n in range(40)]


def test_a_missing_assignments_file_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    artifacts.write_table(workspace.manifest, manifest([image("a"), image("b"), image("c")]))
    lock = {"stages": {"split": {"outs": [{"path": "data/assignments.csv", "md5": "0"}]}}}
    artifacts.write_json(tmp_path / "dvc.lock", lock)
    run(workspace, Params())
    assert "dvc pull data/assignments.csv" in capsys.readouterr().out
    run(workspace, Params())
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["image_id,split\n", "image_id,group,split,dhash,thumbnail\na,g,somewhere,,\n"]
)
def test_a_damaged_assignments_file_is_refused(tmp_path: Path, text: str) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    artifacts.write_table(workspace.manifest, manifest([image("a")]))
    artifacts.write_text(workspace.assignments, text)
    with pytest.raises(DataError, match=r"dvc checkout data/assignments\.csv"):
        run(workspace, Params())
    assert workspace.assignments.read_text() == text


def test_a_class_chained_into_one_group_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path, tmp_path / "var")
    images = [image(f"i{n}") for n in range(40)]
    artifacts.write_table(workspace.manifest, manifest(images, {f"i{n}": "0" * 64 for n in range(30)}))
    run(workspace, Params())
    assert "30 of 40 images of 'pit' are near-duplicates" in capsys.readouterr().out
