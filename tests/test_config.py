"""Settings: the TOML that is written reads back, and every bad key or value names itself."""

import dataclasses
import os
import tomllib

import pytest

from eqpot.config import (
    Config,
    DynamicsConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
    parse_time,
)
from eqpot.errors import UserError
from eqpot.potential import Potential
from eqpot.settings import parse_setting, read_toml

CHANGED = {
    "model": {"symmetry": "so3", "features": 7, "cutoff": 4.25, "self_connection": "residual", "zbl": True},
    "loss": {
        "energy": 0.0,
        "kind": "huber",
        "element_weights": "balanced",
        "group_weights": {"slab": 2.0, 'a slab, "cut"': 0.5},
    },
    "train": {
        "optimizer": "adam",
        "amsgrad": True,
        "max_time": "45m",
        "shifts": {"H": -13.6, "C": -1028.5},
        "scale": 0.5,
        "freeze": ["embedding", "block2"],
    },
}


def test_defaults_survive_the_file_they_print(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(Config().to_toml())
    assert Config.from_toml(path) == Config()


def test_changed_values_survive_too():
    config = Config.from_dict(CHANGED)
    assert config != Config()
    assert Config.from_dict(tomllib.loads(config.to_toml())) == config
    assert Config.from_dict(config.to_dict()) == config


def test_every_key_has_a_comment_line():
    text = Config().to_toml()
    for table in (ModelConfig, LossConfig, TrainConfig):
        for field in dataclasses.fields(table):
            line = next(row for row in text.splitlines() if row.startswith(f"{field.name} = "))
            assert f"# {field.metadata['comment']}" in line


def test_the_names_scripts_rely_on():
    promised = {
        ModelConfig: "symmetry l_max features blocks cutoff basis_size envelope_p radial_depth radial_width "
        "nonlinearity self_connection zbl",
        LossConfig: "energy forces stress element_weights kind",
        TrainConfig: "batch_size learning_rate patience factor ema amsgrad max_epochs max_time stop_patience "
        "seed n_train n_valid dtype",
    }
    for table, names in promised.items():
        assert set(names.split()) <= {f.name for f in dataclasses.fields(table)}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"cutof": 4}}, ["model.cutof", "unknown key", "'cutoff'"]),
        ({"modle": {}}, ["modle", "unknown table", "'model'"]),
        ({"cutoff": 4}, ["cutoff", "[model]"]),
        ({"train": 3}, ["train", "expected a table", "found 3"]),
        ({"model": {"cutoff": -1}}, ["model.cutoff", "greater than 0", "found -1"]),
        ({"model": {"cutoff": float("nan")}}, ["model.cutoff", "greater than 0", "NaN"]),
        ({"model": {"cutoff": "5"}}, ["model.cutoff", "a number", 'found "5"']),
        ({"model": {"blocks": 0}}, ["model.blocks", "at least 1", "found 0"]),
        ({"model": {"features": 4.5}}, ["model.features", "an integer", "found 4.5"]),
        ({"model": {"features": True}}, ["model.features", "an integer", "found true"]),
        ({"model": {"features": 5, "parity": "both"}}, ["model.features", "even", "found 5"]),
        ({"model": {"l_max": 2}}, ["model.l_max", "0 or 1", "found 2"]),
        ({"model": {"l_max": True}}, ["model.l_max", "0 or 1", "found true"]),
        (
            {"model": {"symmetry": "s03"}},
            ["model.symmetry", '"o3" or "so3"', 'nearest: "so3"', 'found "s03"'],
        ),
        ({"model": {"nonlinearity": ["gate"]}}, ["model.nonlinearity", '"gate" or "norm"', 'found ["gate"]']),
        ({"model": {"zbl": 1}}, ["model.zbl", "true or false", "found 1"]),
        ({"loss": {"energy": -1.0}}, ["loss.energy", "at least 0", "found -1.0"]),
        ({"loss": {"energy": 0, "forces": 0, "stress": 0}}, ["loss.forces", "above 0"]),
        ({"preset": "papers"}, ["preset", "fast, default, accurate, paper", 'found "papers"']),
        ({"preset": ["paper"]}, ["preset", 'found ["paper"]']),
        ({"train": {"optimizer": "soap", "amsgrad": True}}, ["train.amsgrad", "adam", "found soap"]),
        ({"train": {"amsgrad": 1}}, ["train.amsgrad", "true or false", "found 1"]),
        ({"train": {"ema": 1.0}}, ["train.ema", "less than 1", "found 1.0"]),
        ({"train": {"max_time": "45 minutes"}}, ["train.max_time", "45m", 'found "45 minutes"']),
        ({"train": {"shifts": {"Q": 1.0}}}, ["train.shifts", "least_squares", '{"Q": 1.0}']),
        ({"train": {"scale": 0}}, ["train.scale", "positive", "found 0"]),
        ({"train": {"seed": -1}}, ["train.seed", "at least 0", "found -1"]),
        ({"train": {"seed": 2**63}}, ["train.seed", "at most 9223372036854775807"]),
        ({"model": {"blocks": 10**9}}, ["model.blocks", "at most 64", "found 1000000000"]),
        ({"model": {"features": 10**4000}}, ["model.features", "at most 4096", "found 1000000"]),
        ({"model": {"features": 1 << 50_000}}, ["model.features", "at most 4096", "found a huge int"]),
        ({"model": {"cutoff": 1e6}}, ["model.cutoff", "at most 50", "found 1000000.0"]),
        ({"model": {"cutoff": 10**400}}, ["model.cutoff", "at most 50", "found 1000000"]),
        (
            {"train": {"learning_rate": float("inf")}},
            ["train.learning_rate", "at most 100", "found Infinity"],
        ),
        ({"train": {"max_time": 10**400}}, ["train.max_time", "90s"]),
        ({"train": {"scale": 10**400}}, ["train.scale", "positive number"]),
        ({"train": {"shifts": {"H": 10**400}}}, ["train.shifts", "isolated-atom"]),
        ({"model": {"x" * 10_000: 1}}, ["model.xxx", "unknown key"]),
        ({"model": {"symmetry": "x" * 10_000}}, ["model.symmetry", '"o3" or "so3"', "x..."]),
    ],
)
def test_bad_settings_name_themselves(tables, words):
    with pytest.raises(UserError) as error:
        Config.from_dict(tables)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


# Every setting of version 0.1.
OLD = {
    "model": dict(
        symmetry="o3",
        l_max=1,
        features=64,
        blocks=4,
        cutoff=5.0,
        basis_size=8,
        envelope_p=6,
        radial_depth=1,
        radial_width=8,
        nonlinearity="gate",
        self_connection="species",
        zbl=False,
    ),
    "loss": dict(
        energy=1.0, forces=1.0, stress=1.0, element_weights="none", kind="squared", huber_delta=0.01
    ),
    "train": dict(
        batch_size=5,
        learning_rate=0.01,
        patience=25,
        factor=0.8,
        min_learning_rate=1e-6,
        ema=0.999,
        amsgrad=False,
        max_epochs=10_000,
        max_time="",
        cooldown=0.3,
        stop_patience=0,
        seed=0,
        n_train=0,
        n_valid=0,
        dtype="float32",
        shifts="least_squares",
        scale="force_rms",
    ),
}


def test_the_preset_of_the_paper_is_all_that_version_0_1_did():
    paper = Config.from_dict({"preset": "paper"}).to_dict()
    later = {name: {k: v for k, v in paper[name].items() if k not in OLD[name]} for name in paper}
    assert later == {
        "model": {"isolated_atoms": "auto", "filter_order": 1, "node_products": False, "parity": "both"},
        "loss": {"errors": "per_atom", "group_weights": "none"},
        "train": {
            "optimizer": "adam",
            "schedule": "plateau",
            "n_replay": 0,
            "freeze": (),
            "refit_shifts": False,
            "ordered_sums": False,
        },
    }
    assert {name: paper[name] | OLD[name] for name in paper} == paper


def test_errors_by_atom_weigh_the_stress_by_1_where_nothing_else_is_said():
    """The default is for the virial, whose errors are some hundred times larger."""
    assert Config().loss.stress == 0.01
    for table, expected in (({}, 1.0), ({"stress": 0.01}, 0.01), ({"stress": 0}, 0.0)):
        assert Config.from_dict({"loss": {"errors": "per_atom", **table}}).loss.stress == expected


def test_whole_tables_of_version_0_1_mean_what_they_did(tmp_path):
    """Settings that were added later are then what they were, in a file, over others, and in a checkpoint."""
    paper = Config.from_dict({"preset": "paper"})
    assert Config.from_dict(OLD) == Config.from_file(OLD) == Config().replace(OLD) == paper
    part = {"train": {**OLD["train"], "optimizer": "soap"}}
    assert Config().replace(part).train.optimizer == "soap"
    assert Config().replace(part).train.schedule == "plateau"
    assert Config.from_dict({"train": {"learning_rate": 0.01}}).train.schedule == "cooldown"
    with pytest.raises(UserError, match="train.seed: expected a setting, found none"):
        Config.from_file(OLD | {"train": {k: v for k, v in OLD["train"].items() if k != "seed"}})


def test_presets_are_what_other_settings_change():
    paper = Config.from_dict({"preset": "paper", "train": {"learning_rate": 0.02}, "model": {}})
    assert (paper.train.learning_rate, paper.train.optimizer) == (0.02, "adam")
    changed = Config.from_dict({"model": {"cutoff": 4}}).replace({"preset": "paper", "loss": {"energy": 2}})
    assert changed == Config.from_dict({"preset": "paper", "loss": {"energy": 2}})


def test_without_vectors_filters_are_of_order_1():
    """Where nothing else is said: --set model.l_max=0 is enough."""
    config = Config().replace({"model": {"l_max": 0}})
    assert config.model == Config.from_dict({"model": {"l_max": 0}}).model
    assert (config.model.filter_order, config.model.node_products) == (1, True)
    assert Potential.create(["H"], l_max=0, features=2).config.filter_order == 1
    with pytest.raises(UserError, match="model.filter_order: expected 1 with l_max 0"):
        Config.from_dict({"model": {"l_max": 0, "filter_order": 2}})


def test_every_number_has_limits():
    """So that no file can ask for more than a machine has."""
    for table in (ModelConfig, LossConfig, TrainConfig, DynamicsConfig):
        for field in dataclasses.fields(table):
            if (
                field.type in (int, float)
                and field.metadata["choices"] is None
                and not field.metadata["parse"]
            ):
                limits = {key: field.metadata[key] for key in ("low", "above", "high", "below")}
                assert limits["low"] is not None or limits["above"] is not None, field.name
                assert limits["high"] is not None or limits["below"] is not None, field.name


def test_too_many_parameters_are_told_before_they_are_made():
    with pytest.raises(
        UserError, match=r"at most 50,000,000 parameters, found 26,254,\d{3},\d{3}, .* 105 GB"
    ):
        Potential.create(["H", "O"], features=4096, blocks=64)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"length": "9" * 400}, "--length: expected a number of steps above 0"),
        ({"length": "1" + "0" * 12, "timestep": 0.5}, None),
        (
            {"length": "10ns", "timestep": 1e-6},
            "--length: expected at most 1e+12 steps, found 10ns in steps of",
        ),
        ({"timestep": 1e4}, "--timestep: expected a number at least 1e-06 and at most 1000"),
        (
            {"thermostat_time": 1e-300, "thermostat": "langevin"},
            "--thermostat-time: expected a number at least 0.001 and",
        ),
        ({"end_temperature": 1e300, "thermostat": "langevin"}, "--end-temperature: expected a temperature"),
    ],
)
def test_limits_of_dynamics(settings, words):
    if words is None:
        assert DynamicsConfig(**settings).steps == 10**12
        return
    with pytest.raises(UserError) as error:
        DynamicsConfig(**settings)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[train]\nseed = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
        (b"[train]\nseed = 0x" + b"f" * 5000, "train.seed: expected an integer at least 0 and at most"),
        (b"[train]\nseed = " + b"9" * 4000, "train.seed: expected an integer at least 0 and at most"),
        (
            b"[model]\ncutoff = 1e400",
            "model.cutoff: expected a number greater than 0 and at most 50, found Inf",
        ),
        (b"[model]\ncutoff = nan", "model.cutoff: expected a number"),
        (b"a = " + b"[" * 3000 + b"]" * 3000, "not valid TOML: tables or lists too deep in each other"),
        (b"[" + b"a." * 3000 + b"a]", "a: unknown table"),
        (b"a = " + b"{a=" * 3000 + b"1" + b"}" * 3000, "not valid TOML: tables or lists too deep"),
        (b"[model]\ncutoff = 4\ncutoff = 5", "not valid TOML: Cannot overwrite a value"),
        (b"[model]\ncutoff = 4\n\0", "not valid TOML: "),
        ("[model]\ncutoff = 4".encode("utf-16"), "not valid TOML: expected text in UTF-8"),
        (b'[model]\n"cut\xe2\x80\xaeoff" = 4', "unknown key, did you mean 'cutoff'?"),
        (b"#" * 30_001, "expected settings of at most 30000 bytes, found more"),
    ],
)
def test_files_that_are_no_settings(content, words, tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        Config.from_toml(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_a_mark_of_byte_order_is_no_setting(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf[model]\r\ncutoff = 4\r\n")
    assert Config.from_toml(path).model.cutoff == 4


def test_no_settings_in_folders_devices_and_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path, "a folder"),
        ("/dev/zero", "a device"),
        (tmp_path / "pipe", "a device or a"),
    ):
        with pytest.raises(UserError, match=f"expected a TOML file, found {what}"):
            read_toml(path)


def test_errors_of_a_file_name_the_file(tmp_path):
    with pytest.raises(UserError, match="none.toml: no such file"):
        Config.from_toml(tmp_path / "none.toml")
    path = tmp_path / "bad.toml"
    path.write_text("[model\n")
    with pytest.raises(UserError, match="bad.toml: not valid TOML"):
        read_toml(path)
    path.write_text("[model]\ncutof = 4\n")
    with pytest.raises(UserError, match="bad.toml: model.cutof: unknown key"):
        Config.from_toml(path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), (30, 30), ("", 0)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


def test_overrides():
    assert parse_setting("model.cutoff=4") == ("model", "cutoff", 4)
    assert parse_setting("model.symmetry = so3") == ("model", "symmetry", "so3")
    assert parse_setting("train.shifts={H = -1.0}") == ("train", "shifts", {"H": -1.0})
    for text in ("9" * 5000, "[" * 3000 + "]" * 3000):  # more than Python reads
        assert parse_setting(f"model.cutoff={text}") == ("model", "cutoff", text)
    with pytest.raises(UserError, match="expected table.key=value"):
        parse_setting("cutoff=4")
    config = Config().replace({"model": {"cutoff": 4}, "train": {"seed": 3}})
    assert (config.model.cutoff, config.train.seed, config.model.blocks) == (4.0, 3, 2)
    with pytest.raises(UserError, match="did you mean 'model'"):
        Config().replace({"modl": {"cutoff": 4}})
