"""The commands that README.md and docs/ tell a reader to type."""

import re
from dataclasses import dataclass
from pathlib import Path

from local.stack import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

# The first line of a block of commands is ```sh, or ```sh aws if the commands need an AWS account.
SHELL, NEEDS_AWS = "sh", "sh aws"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: the words after its opening fence, and its text without the indentation of a list."""

    info: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = re.findall(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", page.read_text(), re.MULTILINE)
    return [Block(info, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, info, text in found]


def commands(page: Path, info: str) -> list[str]:
    """Return the commands in a page's blocks of one kind, each on one line, without comments."""
    text = "".join(block.text for block in blocks(page) if block.info == info)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def readme_commands() -> list[str]:
    """Return the commands of README.md that need no AWS account, in order and word for word."""
    return commands(README, SHELL)
