"""Every hyperparameter once: default, type, allowed values, one line of meaning.

Three tables, as in the TOML file: `[model]`, `[loss]`, `[train]`; and one for dynamics. A dataclass field is
the only place that knows its key; reading, checking, `eqpot fit --show-config`, the options of `eqpot md` and
the JSON in the files all follow from it.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from eqpot.errors import UserError
from eqpot.presets import PRESETS as PRESETS  # known by this address
from eqpot.setting_values import (
    MOST_STEPS,
    auto,
    band,
    duration,
    end_temperature,
    freeze,
    group_weights,
    length,
    parse_length,
    parse_time,
    scale,
    shifts,
)
from eqpot.settings import (
    HUGE,
    LONGEST,
    MANY,
    Table,
    nearest,
    option,
    read_toml,
    shown,
)


@dataclass(frozen=True)
class ModelConfig(Table):
    """The potential: what is computed from a structure."""

    section = "model"
    later = MappingProxyType(
        dict(zbl=False, isolated_atoms="auto", filter_order=1, node_products=False, parity="both")
    )

    symmetry: str = option(
        "o3", "o3 tracks parity (energy is mirror invariant), so3 does not", choices=("o3", "so3")
    )
    parity: str = option(
        "natural",
        "with o3; natural: even scalars and polar vectors, both: half odd scalars, half axial vectors",
        choices=("natural", "both"),
    )
    l_max: int = option(1, "1: scalars and vectors, 0: scalars only (the invariant ablation)", choices=(0, 1))
    features: int = option(64, "channels of scalars, and of vectors", low=2, high=4096)
    blocks: int = option(2, "interaction blocks", low=1, high=64)
    # At 50 angstrom a liquid has fifty thousand neighbours to an atom: nothing holds more.
    cutoff: float = option(5.0, "neighbours within this distance, angstrom", above=0, high=50)
    basis_size: int = option(8, "Bessel functions of the distance", low=1, high=256)
    envelope_p: int = option(6, "exponent of the polynomial envelope at the cutoff", low=2, high=100)
    radial_depth: int = option(1, "hidden layers of the radial network", low=0, high=16)
    radial_width: int = option(8, "width of those layers", low=1, high=4096)
    nonlinearity: str = option(
        "gate", "vectors scaled by extra scalars, or by their own norm", choices=("gate", "norm")
    )
    self_connection: str = option(
        "species",
        "what a block adds to its input: matrix per species, or the input itself",
        choices=("species", "residual"),
    )
    filter_order: int = option(
        2,
        "2: edges also carry Y Y^T - 1, for 1x2->1 and, with node_products, second moments; 3: and third",
        choices=(1, 2, 3),
    )
    node_products: bool = option(
        True, "multiply two projections of what an atom sums over its neighbours; half as many as features"
    )
    zbl: bool = option(False, "add ZBL's repulsion of nuclei closer than the sum of their covalent radii")
    isolated_atoms: Any = option(
        "auto",
        "true: an atom without neighbours has exactly its shift; auto: if shifts are a table, or of "
        "IsolatedAtom frames",
        parse=auto,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.symmetry, self.l_max, self.parity) == ("o3", 1, "both") and self.features % 2:
            raise UserError(
                'model.features: expected an even number with parity "both" (half of each), '
                f"found {self.features}"
            )
        order = self.filter_order
        if order > 1 and self.l_max == 0:
            raise UserError(f"model.filter_order: expected 1 with l_max 0 (no vectors), found {order}")
        if order == 3 and not self.node_products:
            raise UserError("model.filter_order: expected 1 or 2 without node_products, found 3")

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As for every table; and without vectors, filters are of order 1 where nothing else is said."""
        found = super().completed(values)
        return {"filter_order": 1, **found} if found.get("l_max") == 0 else found

    @property
    def of_papers(self) -> bool:
        """Whether this is the network of the papers."""
        return self.filter_order == 1 and not self.node_products

    @property
    def beyond(self) -> str:
        """What it has beside the papers' network, in words, with a comma before each."""
        filters = f", filters of order {self.filter_order}" * (self.filter_order > 1)
        return filters + ", node products" * self.node_products

    @property
    def components(self) -> int:
        """Rows that an atom has in the tallest product with a matrix: 3 of vectors, 5 or 7 of moments."""
        return 2 * self.filter_order + 1 if self.node_products else 3


@dataclass(frozen=True)
class LossConfig(Table):
    """The loss: weights of mean squared errors in energy, forces and stress."""

    section = "loss"
    later = MappingProxyType({"errors": "per_atom", "group_weights": "none"})

    errors: str = option(
        "root_n",
        "root_n: energy and virial of N atoms by sqrt(N), eV; per_atom: energy by N, stress, eV/angstrom^3",
        choices=("root_n", "per_atom"),
    )
    energy: float = option(1.0, "weight of the squared error in energy", low=0, high=HUGE)
    forces: float = option(
        1.0, "weight of the squared error in force components, (eV/angstrom)^-2", low=0, high=HUGE
    )
    stress: float = option(
        0.01,
        "weight of the squared error in virial or, per_atom, stress components, of which 1 is usual then",
        low=0,
        high=HUGE,
    )
    element_weights: str = option(
        "none",
        "balanced: the forces on every element count alike, however rare it is",
        choices=("none", "balanced"),
    )
    group_weights: Any = option(
        "none",
        "weights of frames by their group, times those in the data; such as {surface = 2.0, bulk = 0.5}",
        parse=group_weights,
    )
    kind: str = option("squared", "huber grows linearly beyond huber_delta", choices=("squared", "huber"))
    huber_delta: float = option(
        0.01, "where Huber's loss turns linear, in the unit of each error", above=0, high=HUGE
    )

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """As for every table; and the stress itself, not the virial, weighs 1 where nothing else is said."""
        found = super().completed(values)
        return {"stress": 1.0, **found} if found.get("errors") == "per_atom" else found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.energy == self.forces == self.stress == 0:
            raise UserError(
                "loss.energy, loss.forces, loss.stress: expected a weight above 0, found 0 for all three"
            )


@dataclass(frozen=True)
class TrainConfig(Table):
    """How the weights are found."""

    section = "train"
    later = MappingProxyType(
        {"optimizer": "adam", "schedule": "plateau", "freeze": (), "n_replay": 0}
        | dict.fromkeys(("refit_shifts", "ordered_sums"), False)
    )

    batch_size: int = option(
        0, "frames per step; 0: as many as have about 75 atoms, at least one", low=0, high=MANY
    )
    ordered_sums: bool = option(
        False, "add gradients frame by frame, so that any number of ranks finds the same bits; takes longer"
    )
    optimizer: str = option(
        "soap", "soap: Adam in the eigenbasis of each matrix's gradients", choices=("soap", "adam")
    )
    learning_rate: float = option(0.01, "step length at the start", above=0, high=100)
    schedule: str = option(
        "cooldown",
        "cooldown: the rate falls to 0 before max_time or max_epochs; plateau, or without these: cut at them",
        choices=("cooldown", "plateau"),
    )
    cooldown: float = option(
        0.5, "last fraction of the run, over which the rate falls linearly to 0", low=0, high=1
    )
    patience: int = option(
        25,
        "of a plateau: epochs without a better validation force RMSE before the rate is cut",
        low=1,
        high=MANY,
    )
    factor: float = option(0.8, "the cut", above=0, high=1)
    min_learning_rate: float = option(1e-6, "training ends when the rate is cut below this", low=0, high=100)
    ema: float = option(
        0.999, "decay of the moving average of the weights that is validated and kept; 0: off", low=0, below=1
    )
    amsgrad: bool = option(False, "Adam's AMSGrad variant; not with soap")
    max_epochs: int = option(0, "training ends after this many epochs; 0: no limit", low=0, high=MANY)
    max_time: str | float = option(
        "", 'training ends after this time: "45m", "2h", "90s"; "": no limit', parse=duration
    )
    stop_patience: int = option(
        0, "training ends after this many epochs without a better validation; 0: off", low=0, high=MANY
    )
    seed: int = option(0, "of everything random: split, weights, order of frames", low=0, high=2**63 - 1)
    n_train: int = option(0, "frames to train on; 0: all that are left", low=0, high=MANY)
    n_valid: int = option(0, "frames to validate on; 0: a tenth of DATA, or all of --valid", low=0, high=MANY)
    n_replay: int = option(0, "frames of --replay to train on as well; 0: all", low=0, high=MANY)
    freeze: Any = option(
        (), "of --from: weights that stay: embedding, radial, blocks, block1, ..., readout", parse=freeze
    )
    dtype: str = option("float32", "precision of the weights and kernels", choices=("float32", "float64"))
    shifts: Any = option(
        "least_squares",
        "energy per atom of each element, eV: fitted, or of IsolatedAtom frames; or a table {H = -13.6, ...},"
        " or parent: those of --from",
        parse=shifts,
    )
    refit_shifts: bool = option(
        True, "fit the shifts anew at the end, to what the best weights leave of the training energies"
    )
    scale: Any = option(
        "force_rms", "unit of the network's output: RMS of the training forces, or a number", parse=scale
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.amsgrad and self.optimizer != "adam":
            raise UserError(f"train.amsgrad: expected train.optimizer adam, found {self.optimizer}")

    @property
    def max_seconds(self) -> float:
        """`max_time` in seconds, infinite without a limit."""
        return parse_time(self.max_time) or math.inf


@dataclass(frozen=True)
class DynamicsConfig(Table):
    """All settings of `eqpot md`."""

    section = "md"
    later = MappingProxyType({"index": -1})

    ensemble: str = option("nvt", "what is kept constant", choices=("nve", "nvt", "npt"))
    thermostat: str = option("nose-hoover", "of nvt", choices=("nose-hoover", "langevin"))
    length: str = option("10ps", "of the whole run: steps, or a time such as 20ps", parse=length)
    timestep: float = option(0.5, "time step, fs", low=1e-6, high=1000)
    temperature: float = option(300.0, "of the thermostat and of the first velocities, K", above=0, high=HUGE)
    end_temperature: Any = option(
        None, "that temperature at the end, changing linearly; with langevin", parse=end_temperature
    )
    thermostat_time: float = option(
        100.0, "characteristic time of the thermostat, fs; 1/friction of langevin", low=1e-3, high=HUGE
    )
    pressure: float = option(1.0, "of npt, bar (10000 bar are 1 GPa)", low=-HUGE, high=HUGE)
    barostat_time: float = option(1000.0, "characteristic time of npt's barostat, fs", low=1e-3, high=HUGE)
    index: int = option(-1, "frame of STRUCTURE, from 0, or -1, -2, ... from the end", low=-MANY, high=MANY)
    keep_velocities: bool = option(False, "begin with those of STRUCTURE")
    seed: int = option(0, "of the first velocities and of langevin's noise", low=0, high=2**63 - 1)
    write_every: int = option(20, "steps from frame to frame of the trajectory", low=1, high=MANY)
    log_every: int = option(10, "steps from row to row of the log", low=1, high=MANY)
    max_force: float = option(
        100.0, "a larger force on any atom, eV/angstrom, ends the run", above=0, high=HUGE
    )
    min_distance: float = option(
        0.8,
        "two atoms closer than this fraction of what training showed of their elements end the run; 0: never",
        low=0,
        high=100,
    )
    temperature_band: float = option(
        0.0, "a temperature this factor above or below --temperature ends the run; 0: never", parse=band
    )
    max_deviation: float = option(
        0.0,
        "a larger standard deviation of a committee's force, eV/angstrom, ends the run; 0: never",
        low=0,
        high=HUGE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            parse_length(self.length, self.timestep)
        except ValueError:
            raise UserError(
                f"{self.called('length')}: expected at most {MOST_STEPS:.0e} steps, found {self.length} "
                f"in steps of {self.timestep:g} fs"
            ) from None
        fields = self.__dataclass_fields__
        for name, wanted in (
            ("thermostat", ("nvt",)),
            ("thermostat_time", ("nvt", "npt")),
            ("pressure", ("npt",)),
            ("barostat_time", ("npt",)),
        ):
            if self.ensemble not in wanted and getattr(self, name) != fields[name].default:
                raise UserError(
                    f"{self.called(name)}: expected ensemble {' or '.join(wanted)}, found {self.ensemble}"
                )
        if self.end_temperature is not None and self.thermostat != "langevin":
            found = f"thermostat {self.thermostat}" if self.ensemble == "nvt" else f"ensemble {self.ensemble}"
            raise UserError(
                "--end-temperature: expected thermostat langevin, whose temperature may change at any step, "
                f"found {found}"
            )

    @classmethod
    def called(cls, key: str) -> str:
        """As an option: all of them come from the command line."""
        return f"--{key.replace('_', '-')}"

    @cached_property
    def steps(self) -> int:
        """`length` in steps."""
        return parse_length(self.length, self.timestep)

    def target(self, step: int) -> float:
        """Temperature of the thermostat at a step, K."""
        if self.end_temperature is None:
            return self.temperature
        return self.temperature + (self.end_temperature - self.temperature) * step / self.steps


@dataclass(frozen=True)
class Config:
    """All settings of `eqpot fit`."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Self:
        """From {"model": {...}, "loss": {...}, "train": {...}}, each optional and partial.

        "preset": the name of one of PRESETS, which the others change.
        """
        tables = dict(tables)
        preset = tables.pop("preset", "default")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise UserError(f"preset: expected one of {', '.join(PRESETS)}, found {shown(preset)}")
        parts = {f.name: f.type for f in dataclasses.fields(cls)}
        for name, table in tables.items():
            if name not in parts:
                owners = [p for p, kind in parts.items() if name in kind.__dataclass_fields__]
                hint = f"it belongs under [{owners[0]}]" if owners else nearest(name, parts)
                raise UserError(
                    f"{name[:LONGEST]}: unknown {'table' if isinstance(table, Mapping) else 'key'}, {hint}"
                )
            if not isinstance(table, Mapping):
                raise UserError(f"{name}: expected a table [{name}], found {shown(table)}")
            tables[name] = parts[name].completed(table)
        given = {name: {**PRESETS[preset].get(name, {}), **tables.get(name, {})} for name in parts}
        return cls(**{name: parts[name].from_dict(table) for name, table in given.items()})

    @classmethod
    def from_file(cls, tables: Mapping[str, Any]) -> Self:
        """From what `to_dict` wrote into a file: every table, and in them what their `from_file` wants."""
        cls.from_dict(tables)  # so that a table that is none is told
        return cls(**{f.name: f.type.from_file(tables.get(f.name, {})) for f in dataclasses.fields(cls)})

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """From a TOML file; UserError names the file."""
        tables = read_toml(path)
        try:
            return cls.from_dict(tables)
        except UserError as e:
            raise UserError(f"{path}: {e}") from None

    def replace(self, overrides: Mapping[str, Mapping[str, Any]]) -> Self:
        """A copy with some values changed, checked like any others; from a preset, if they name one."""
        tables = {} if "preset" in overrides else self.to_dict()
        for name, table in overrides.items():
            if name in tables and isinstance(table, Mapping):
                table = {**tables[name], **getattr(self, name).completed(table)}
            tables[name] = table
        return type(self).from_dict(tables)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """The complete file, a comment per line; `from_toml` reads it back to an equal Config."""
        return "\n".join(part.to_toml() for part in (self.model, self.loss, self.train))
