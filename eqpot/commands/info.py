"""`eqpot info`."""

import click

from eqpot.words import say


@click.command()
@click.argument("model", metavar="MODEL.h5")
def info(model) -> None:
    """Settings, parameters and origin of MODEL.h5."""
    from ase.data import chemical_symbols

    from eqpot.potential import Potential

    potential = Potential.load(model)
    say(*potential.config.to_toml().split("\n"))
    symbols = [chemical_symbols[z] for z in potential.species]
    rows = {
        "parameters": len(potential.params.flat),
        "dtype": potential.dtype,
        "species": " ".join(symbols),
        "mean neighbours": f"{potential.mean_neighbours:.2f}",
        "shift, eV": " ".join(f"{s} {x:.4f}" for s, x in zip(symbols, potential.shift, strict=True)),
        "scale, eV": " ".join(f"{s} {x:.4f}" for s, x in zip(symbols, potential.scale, strict=True)),
        **{k.replace("_", " "): v for k, v in potential.provenance.items() if k != "config" and v != ""},
    }
    if "closest" in rows:
        rows["closest"] = "  ".join(f"{pair} {r:.3f} Å" for pair, r in rows["closest"].items())
    for name in ("valid forces rmse", "parent valid forces rmse"):
        if name in rows:
            rows[name] = f"{1000 * rows[name]:.4g} meV/Å"
    width = max(map(len, rows))
    say(*(f"{key:<{width}}  {value}" for key, value in rows.items()))
