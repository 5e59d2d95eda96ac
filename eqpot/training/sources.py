"""What a run knows of its origin, which its checkpoint keeps."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Sources:
    """What the run is made from: files, of which relative ones are in its folder, their hashes, which frames
    were drawn from them, and the elements that its parent knows, if it has one."""

    data: str
    data_hash: str
    train: np.ndarray
    valid: np.ndarray
    valid_data: str = ""
    valid_hash: str = ""
    command: str = ""
    known: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
