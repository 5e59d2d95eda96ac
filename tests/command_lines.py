"""Command lines that a text shows."""

import re
import shlex

from eqpot.cli import cli


def blocks(text: str, language: str = "") -> list[str]:
    """What stands in a text's fences of a language, or of none."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def commands_in(text: str, margin: str = "") -> list[str]:
    """Every `eqpot ...` that begins a line after a margin; a backslash at the end continues it."""
    joined = text.replace(f"\\\n{margin.strip()}", "")
    return re.findall(rf"^{margin}(eqpot .*)", joined, re.MULTILINE)


def check_command(line: str) -> None:
    """Fail unless `eqpot ...` is a command, with options and arguments, that the command line knows."""
    _, *words = shlex.split(line)
    command = cli
    if words in (["--version"], ["--help"]):
        return
    while hasattr(command, "get_command"):
        name = words.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"{line}: no command {name}"
    command.make_context(command.name, words)
