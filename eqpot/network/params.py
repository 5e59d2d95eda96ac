"""The trained numbers of a model: one flat vector, and named views into it."""

from collections.abc import Iterator, Mapping

import numpy as np


class Params(Mapping[str, np.ndarray]):
    """Arrays by name, laid one after the other in `flat`: writing to either is seen in both."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str | np.dtype):
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.shapes = dict(shapes)
        self.starts = dict(zip(shapes, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))  # places in flat
        self._places = [
            (name, slice(start, start + size), shape)
            for (name, start), size, shape in zip(self.starts.items(), sizes, shapes.values(), strict=True)
        ]
        self.flat = np.zeros(sum(sizes), dtype)
        self._views = self.split(self.flat)

    def move(self, flat: np.ndarray) -> None:
        """Take another vector, on a GPU for instance, in the place of `flat`."""
        self.flat = flat
        self._views = self.split(flat)

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Views of another vector of the same layout, such as a gradient."""
        return {name: flat[place].reshape(shape) for name, place, shape in self._places}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)
