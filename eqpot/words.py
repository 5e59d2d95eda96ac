"""Words for people."""


def counted(count: int, noun: str) -> str:
    """1 atom, 2 atoms."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
