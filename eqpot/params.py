"""The trained numbers of a model: one flat vector, and named views into it."""

from collections.abc import Iterator, Mapping

import numpy as np


class Params(Mapping[str, np.ndarray]):
    """Arrays by name, laid one after the other in `flat`: writing to either is seen in both."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str | np.dtype):
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.shapes = dict(shapes)
        self.flat = np.zeros(sum(sizes), dtype)
        self._views = self.split(self.flat)

    def starts(self) -> dict[str, int]:
        """Where each array begins in `flat`."""
        ends = np.cumsum([view.size for view in self._views.values()])
        return {
            name: int(end) - view.size for (name, view), end in zip(self._views.items(), ends, strict=True)
        }

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Views of another vector of the same layout, such as a gradient."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            views[name] = flat[start : start + size].reshape(shape)
            start += size
        return views

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)
