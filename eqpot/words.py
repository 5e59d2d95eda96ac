"""Words for people."""


def counted(count: int, noun: str) -> str:
    """1 atom, 2 atoms."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """90 s, 45 min, 2 h 10 min: two digits or more are right."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def plain(text: object) -> str:
    r"""Text on one line that a terminal can only show: `\x1b`, `\n` or `\u202e` where it would obey.

    Paths, names of groups, notes and messages of libraries are written by others: colours, line ends and
    characters that are invisible or turn the direction of writing could make them say something else.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(*lines: object) -> None:
    """Print lines, each as it is."""
    for line in lines:
        print(plain(line), flush=True)
