"""Splits: disjoint, seeded, of the size that was asked, and with the short distances where they belong."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from eqpot.config import Config
from eqpot.data_tools import commands
from eqpot.data_tools.commands import data
from eqpot.data_tools.convert import convert
from eqpot.data_tools.split import choose, split
from eqpot.errors import UserError
from eqpot.structures.data import Dataset, first_alike, read_dataset, shortest_distances, write_dataset
from eqpot.training.statistics import choose_frames

FRAMES = 60


@pytest.fixture
def source(tmp_path):
    """Dimers; frame k has the energy k, and a bond length that has nothing to do with k."""
    bond = np.random.default_rng(0).permutation(np.linspace(0.8, 2.0, FRAMES))
    positions = np.zeros((FRAMES, 2, 3))
    positions[:, 1, 2] = bond
    dataset = Dataset(
        atom_ptr=2 * np.arange(FRAMES + 1),
        numbers=np.tile(np.array([1, 9], dtype=np.uint8), FRAMES),
        positions=positions.reshape(-1, 3),
        cell=np.zeros((FRAMES, 3, 3)),
        pbc=np.zeros((FRAMES, 3), dtype=bool),
        energy=np.arange(float(FRAMES)),
        forces=np.zeros((2 * FRAMES, 3)),
        attrs={"level_of_theory": "none"},
    )
    path = tmp_path / "all.h5"
    write_dataset(path, dataset)
    return path


@pytest.mark.parametrize("prefix", [".", "..", "", "new/", "new/.."])
def test_a_folder_is_no_beginning_of_names(prefix, source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    with pytest.raises(UserError, match="-o: expected what the names of the files begin with, such as"):
        split(source, prefix=prefix)
    assert not any(name.name.startswith((".", "_")) for name in tmp_path.rglob("*.h5"))


def frames_of(path) -> list[int]:
    """Which frames of the source a file holds, by their energies."""
    return [int(energy) for energy in read_dataset(path).energy]


def test_parts_are_disjoint_and_hold_what_they_say(source, tmp_path):
    parts = split(source, train=30, valid=10, test=5, seed=1)
    assert {name: len(part.frames) for name, part in parts.items()} == {"train": 30, "valid": 10, "test": 5}
    seen = []
    for name, part in parts.items():
        assert part.path == str(tmp_path / f"all_{name}.h5")
        assert frames_of(part.path) == part.frames.tolist() == sorted(part.frames)
        seen += frames_of(part.path)
    assert len(set(seen)) == 45
    whole, train = read_dataset(source), read_dataset(tmp_path / "all_train.h5")
    np.testing.assert_array_equal(train.positions, whole.subset(parts["train"].frames).positions)


def test_attributes_say_how_it_was_made(source):
    train = read_dataset(
        split(source, train=5, valid=4, seed=9, method="shortest", fraction=0.4)["train"].path
    )
    assert train.attrs == {
        "level_of_theory": "none",
        "split_part": "train",
        "split_of": "all.h5",
        "split_of_hash": read_dataset(source).hash,
        "split_method": "shortest, fraction 0.4 of training",
        "split_seed": 9,
        "split_frames": "train 5, valid 4",
    }


def test_the_seed_decides(source):
    chosen = {seed: split(source, train=20, valid=20, seed=seed, overwrite=True) for seed in (0, 1)}
    for parts in chosen.values():
        assert parts["train"].frames.tolist() != list(range(20))
    contents = Path(chosen[1]["train"].path).read_bytes()
    again = split(source, train=20, valid=20, seed=1, overwrite=True)
    assert Path(again["train"].path).read_bytes() == contents
    for name in ("train", "valid"):
        np.testing.assert_array_equal(again[name].frames, chosen[1][name].frames)
        assert set(chosen[0][name].frames) != set(chosen[1][name].frames)


def test_uniform_is_uniform(source):
    """Over many seeds every frame is drawn as often as every other."""
    dataset = read_dataset(source)
    drawn = np.zeros(FRAMES)
    for seed in range(600):
        drawn[choose(dataset, {"train": 15, "valid": 5}, seed)["train"]] += 1
    # binomial: 600 draws at 1/4, standard deviation 10.6
    assert abs(drawn - 150).max() < 5 * 10.6 and drawn.std() > 5


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        ({}, (48, 6, 6)),
        ({"train": 0.5, "valid": 0.25, "test": 0.25}, (30, 15, 15)),
        ({"train": 0.7, "valid": 0.19, "test": 0.11}, (43, 11, 6)),  # all are used: the rest goes to training
        ({"train": 50, "valid": 10}, (50, 10)),
        ({"train": 10, "valid": 0.1, "test": 1.0 / 3}, (10, 6, 20)),
        ({"test": 0.99}, (59,)),
    ],
    ids=str,
)
def test_counts_and_fractions(source, wanted, sizes):
    parts = split(source, **wanted)
    assert tuple(len(frames_of(part.path)) for part in parts.values()) == sizes
    assert tuple(parts) == (tuple(wanted) or ("train", "valid", "test"))


def test_shortest_takes_a_fraction_of_training_from_the_short_end(source):
    dataset = read_dataset(source)
    by_distance = np.argsort(shortest_distances(dataset))
    short, rest = set(by_distance[:6]), set(by_distance[6:])
    others = []
    for seed in range(20):
        chosen = choose(dataset, {"train": 20, "valid": 20}, seed, "shortest", 0.3)
        assert short <= set(chosen["train"])
        assert len(chosen["train"]) == 20 and not set(chosen["train"]) & set(chosen["valid"])
        others.append(set(chosen["train"]) - short)
    # the other 14 are from everywhere, and differ from seed to seed
    assert set.union(*others) == rest and len({frozenset(other) for other in others}) == 20
    uniform = choose(dataset, {"train": 20, "valid": 20}, 0)
    assert not short <= set(uniform["train"])
    none = choose(dataset, {"train": 20, "valid": 20}, 0, "shortest", 0.0)
    np.testing.assert_array_equal(none["train"], uniform["train"])
    assert set(choose(dataset, {"train": 20}, 0, "shortest", 1.0)["train"]) == set(by_distance[:20])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"train": 50, "valid": 11}, r"at most 60 frames, found 50 train \+ 11 valid = 61 wanted"),
        ({"train": 0.9, "valid": 0.2}, r"at most 60 frames, found 54 train \+ 12 valid = 66"),
        ({"train": 61}, "at most 60 frames, found 61 train"),
        ({"train": 10, "valid": 0}, r"valid: expected at least 1 frame, found 0"),
        ({"train": 10, "test": -3}, "test: expected at least 1 frame, found -3"),
        ({"train": 0.9, "valid": 0.01}, r"valid: expected at least 1 frame, found 0 \(0.01 of 60\)"),
        ({"train": 1.5}, "train: expected a fraction over 0 and up to 1, found 1.5"),
        ({"train": float("nan")}, "train: expected a fraction"),
        ({"train": 5, "method": "longest"}, "method: expected one of uniform, shortest; found longest"),
        ({"train": 5, "fraction": 1.2}, "fraction: expected 0 to 1, found 1.2"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_and_nothing_written(source, wanted, message):
    with pytest.raises(UserError, match=message) as caught:
        split(source, **wanted)
    assert "\n" not in str(caught.value)
    assert list(source.parent.iterdir()) == [source]


def test_files_in_the_way_are_kept(source, tmp_path):
    (tmp_path / "all_test.h5").write_text("precious")
    with pytest.raises(UserError, match="all_test.h5: exists already; give --overwrite"):
        split(source, train=5, test=5)
    assert {path.name for path in tmp_path.iterdir()} == {"all.h5", "all_test.h5"}
    split(source, train=5, test=5, overwrite=True)
    assert len(frames_of(tmp_path / "all_test.h5")) == 5


def test_the_command(source, tmp_path):
    words = ["split", str(source), "--train", "50%", "--valid", "0.1", "--test", "3", "--seed", "4"]
    words += ["--method", "shortest", "--fraction", "0.2", "-o", str(tmp_path / "part")]
    run = CliRunner().invoke(data, words, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    rows = {name: int(count) for name, count in re.findall(r"(\w+) +\S*part_\w+\.h5 +(\d+)", run.output)}
    assert rows == {"train": 30, "valid": 6, "test": 3}
    expected = split(
        source,
        train=0.5,
        valid=0.1,
        test=3,
        seed=4,
        method="shortest",
        fraction=0.2,
        prefix=tmp_path / "same",
    )
    for name, part in expected.items():
        assert frames_of(tmp_path / f"part_{name}.h5") == part.frames.tolist()
    run = CliRunner().invoke(data, ["split", str(source), "--train", "some"])
    assert run.exit_code == 2 and "found 'some'" in run.output


# ---------------------------------------------------------------- frames that repeat others


@pytest.fixture
def repeating(source, tmp_path):
    """Frames 0 to 39 of the source, then 20 that repeat frames 0, 2, 4, ... but for rounding and energy."""
    dataset = read_dataset(source).subset([*range(40), *range(0, 40, 2)])
    dataset.positions[80:] += np.random.default_rng(1).uniform(-2e-5, 2e-5, (40, 3))
    dataset.energy[40:] += 0.5
    path = tmp_path / "repeating.h5"
    write_dataset(path, dataset)
    return path


def test_frames_that_are_alike_are_found(repeating):
    first = first_alike(read_dataset(repeating))
    np.testing.assert_array_equal(first, [*range(40), *range(0, 40, 2)])


def test_what_differs_is_not_alike():
    """Another element, cell, direction of period, order or place: none of them repeats the first frame."""
    cell = np.tile(9 * np.eye(3), (7, 1, 1))
    cell[2] *= 1.001
    pbc = np.ones((7, 3), bool)
    pbc[3, 2], cell[3, 2] = False, 0
    positions = np.tile([[0.0, 0, 0], [0, 0, 1]], (7, 1, 1))
    positions[4] = positions[4, ::-1]
    positions[5, 1, 2] += 0.001
    numbers = np.tile([1, 9], (7, 1))
    numbers[1] = 1
    dataset = Dataset(
        2 * np.arange(8), numbers.ravel().astype(np.uint8), positions.reshape(-1, 3), cell=cell, pbc=pbc
    )
    np.testing.assert_array_equal(first_alike(dataset), [0, 1, 2, 3, 4, 5, 0])


def test_frames_of_many_sizes_are_alike():
    sizes = np.array([1, 2, 1, 3, 2, 1])
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    positions = np.concatenate([np.arange(3.0 * n).reshape(n, 3) for n in sizes])
    empty = np.zeros((6, 3, 3)), np.zeros((6, 3), bool)
    dataset = Dataset(ptr, np.ones(10, np.uint8), positions, *empty)
    np.testing.assert_array_equal(first_alike(dataset), [0, 1, 0, 3, 1, 0])


@pytest.mark.parametrize("method", ["uniform", "shortest"])
@pytest.mark.parametrize("wanted", [{}, {"train": 30, "valid": 7, "test": 7}, {"train": 1, "valid": 1}])
def test_a_split_keeps_them_together(method, wanted, repeating):
    kind = first_alike(read_dataset(repeating))
    for seed in range(5):
        parts = split(repeating, **wanted, method=method, seed=seed, overwrite=True)
        kinds = [set(kind[part.frames]) for part in parts.values()]
        assert sum(map(len, kinds)) == len(set.union(*kinds))
        frames = np.concatenate([part.frames for part in parts.values()])
        assert len(set(frames)) == len(frames)
        if wanted:
            assert [len(part.frames) for part in parts.values()] == list(wanted.values())
        else:
            assert len(frames) == 60


def test_nothing_but_repeats_cannot_be_split(source, tmp_path):
    dataset = read_dataset(source).subset([0] * 10)
    write_dataset(tmp_path / "same.h5", dataset)
    with pytest.raises(UserError, match="same.h5: valid: expected at least 1 frame, found none: "):
        split(tmp_path / "same.h5", train=5, valid=5)
    assert not (tmp_path / "same_train.h5").exists()


def test_the_command_tells_of_them(repeating):
    run = CliRunner().invoke(data, ["split", str(repeating)], catch_exceptions=False)
    assert "20 frames repeat another one: such frames are kept in one part" in run.output
    shown = CliRunner().invoke(data, ["info", str(repeating), "--cutoff", "1.5"], catch_exceptions=False)
    told = (
        "warning: 20 of 60 frames repeat an earlier one (frame 40 is frame 0), 20 of them with other labels"
    )
    assert told in shown.output.replace("\n", " ")


def test_a_part_that_cannot_have_its_number_is_told(source, tmp_path):
    dataset = read_dataset(source).subset(np.repeat(np.arange(10), 2))
    write_dataset(tmp_path / "pairs.h5", dataset)
    words = ["split", str(tmp_path / "pairs.h5"), "--train", "11", "--valid", "4"]
    run = CliRunner().invoke(data, words, catch_exceptions=False)
    assert "train: 10 frames, not 11, so that none is in two parts" in run.output
    assert "valid: " not in run.output


def test_convert_finds_them_in_two_sources(source, tmp_path):
    write_dataset(tmp_path / "other.h5", read_dataset(source).subset([3, 8]))
    result = convert([source, tmp_path / "other.h5"], tmp_path / "both.h5")
    assert result.notes == [
        "warning: 2 of 62 frames repeat an earlier one "
        f"(frame 0 of {tmp_path}/other.h5 is frame 3 of {source})"
    ]
    assert convert(source, tmp_path / "one.h5").notes == []


def test_a_fit_validates_on_no_frame_that_it_trains_on(repeating, source):
    dataset = read_dataset(repeating)
    kind = first_alike(dataset)
    for seed in range(10):
        for n_train, n_valid in ((None, None), (30, 10), (None, 5), (59, 1)):
            settings = {"seed": seed, "n_train": n_train, "n_valid": n_valid}
            config = Config.from_dict({"train": {k: v for k, v in settings.items() if v is not None}})
            train, valid = choose_frames(config, dataset, None)
            assert len(train) == (n_train or 60 - (n_valid or 6)) and 1 <= len(valid) <= (n_valid or 6)
            assert not set(kind[train]) & set(kind[valid])
    same = read_dataset(source).subset([0] * 10)
    with pytest.raises(UserError, match="found only repeats of these; give --valid FILE"):
        choose_frames(Config.from_dict({}), same, None)


def test_a_fit_of_frames_that_differ_draws_what_it_drew(source):
    dataset = read_dataset(source)
    config = Config.from_dict({"train": {"seed": 4, "n_train": 20, "n_valid": 9}})
    order = np.random.default_rng(4).permutation(FRAMES)  # the first brings both elements
    train, valid = choose_frames(config, dataset, None)
    np.testing.assert_array_equal(train, np.sort(order[:20]))
    np.testing.assert_array_equal(valid, np.sort(order[20:29]))


@pytest.mark.parametrize(
    ("value", "std", "text"),
    [
        (-155.95632, 0.0034, "-155.9563"),
        (3.0, 1.0, "3"),
        (0.0, 0.0, "0"),
        (1234.5678, 0.0, "1235"),
        (1e-5, 2e3, "1e-05"),
    ],
)
def test_numbers_show_how_they_spread(value, std, text):
    assert commands._number(value, std) == text
