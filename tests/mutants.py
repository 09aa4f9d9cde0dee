"""Fails if a mistake, made by mutmut in the core of the package, is seen by no test and explained nowhere.

``make mutants`` runs it. mutmut makes many small changes ("mutants") in the files that ``pyproject.toml`` lists under
``[tool.mutmut]`` and runs the tests that reach each; a mutant that every test passes has survived. Those that change
nothing that a test could see are listed in ``equivalent_mutants.txt``, with the reason; for any other write a test.

A block of that file, blocks being divided by empty lines: the file, the lines that mutmut removes (``-``) and adds
(``+``), and the reason.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
Change = tuple[str, ...]
"""The file, and the changed lines without their indentation."""


def mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def change_in(text: str) -> Change:
    """Return the change that a diff, or a block of the list, describes."""
    lines = text.splitlines()
    [file] = [line.removeprefix("--- ").strip() for line in lines if line.removeprefix("--- ").startswith("lightning_")]
    changed = [line for line in lines if line[:1] in ("-", "+") and line[:3] not in ("---", "+++")]
    return file, *(f"{line[0]} {line[1:].strip()}" for line in changed)


def explained() -> set[Change]:
    blocks = EQUIVALENT.read_text().strip().split("\n\n")
    return {change_in(block) for block in blocks if not block.startswith("#")}


def survivors() -> dict[str, Change]:
    """Return the change of each mutant that no test failed for, by mutmut's name."""
    names = [line.split(":")[0].strip() for line in mutmut("results").splitlines() if line.strip()]
    return {name: change_in(mutmut("show", name)) for name in names}


def main() -> str | None:
    """Return what is wrong, None if nothing is."""
    subprocess.run([sys.executable, "-m", "mutmut", "run", *sys.argv[1:]], check=True)
    alive, known = survivors(), explained()
    wrong = [("no test fails for", name, *change) for name, change in alive.items() if change not in known]
    gone = [("equivalent_mutants.txt: does not survive", *change) for change in known - set(alive.values())]
    return "\n\n".join("\n".join(lines) for lines in wrong + gone) or None


if __name__ == "__main__":
    sys.exit(main())
