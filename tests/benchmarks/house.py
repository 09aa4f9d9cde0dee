"""How large the house is, and how long the ways through it are.

    python tests/benchmarks/house.py [--root .]

Code lines are lines with code: no blank ones, no comments, no docstrings. A frame is a call of a Python function of
this package (counted by sys.setprofile); a switch is a frame whose module is another one than that of the frame before.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

PACKAGE = "lightning_lrsched"


def code_lines(text: str) -> set[int]:
    """Return the numbers of the lines that hold code."""
    lines: set[int] = set()
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def frames_of(action: Callable[[], object]) -> tuple[int, int, int]:
    """Return how many frames of the package an action makes, in how many modules, and how often the module changes."""
    modules: list[str] = []

    def count(frame: object, event: str, _: object) -> None:
        name = str(frame.f_globals.get("__name__", ""))  # type: ignore[attr-defined]
        if event == "call" and name.startswith(PACKAGE):
            modules.append(name)

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return len(modules), len(set(modules)), sum(a != b for a, b in pairwise(modules))


def ways() -> dict[str, tuple[int, int, int]]:
    """Return frames, modules and switches from a dict to a schedule, and from fit to the first batch."""
    import torch
    from lightning.pytorch import LightningModule, Trainer

    import lightning_lrsched as package

    section = {"type": "WarmupDecayLR",
               "params": {"total_num_steps": "auto", "warmup_max_lr": "auto", "warmup_num_steps": 0.1}}  # fmt: skip

    def build() -> None:
        optimizer = torch.optim.AdamW([torch.zeros(1)], lr=0.1)
        package.SchedulerConfig.from_dict(section).build(optimizer, total_steps=100)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            sys.setprofile(None)  # the first batch: the way ends here
            return self.layer(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    def fit() -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 2,
                 "enable_model_summary": False, "accelerator": "cpu"}  # fmt: skip
        trainer = Trainer(callbacks=[package.LRSchedulerCallback(section)], **quiet)
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2))

    build()  # what is read once is read
    _ = package.LRSchedulerCallback  # and what is imported is imported
    return {"dict to schedule": frames_of(build), "fit to first batch": frames_of(fit)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path())
    root: Path = parser.parse_args().root
    sys.path.insert(0, str(root.resolve()))
    warnings.simplefilter("ignore")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((root / PACKAGE).rglob("*.py"))}
    code = {path: len(code_lines(text)) for path, text in texts.items()}
    tracked = subprocess.run(["git", "ls-files", "tests"], cwd=root, capture_output=True, text=True, check=True).stdout
    tests = [root / name for name in tracked.split() if name.endswith(".py") and "/benchmarks/" not in name]
    every = [root / name for name in tracked.split() if name.endswith(".py")]
    classes = [
        ((node.end_lineno or 0) - node.lineno + 1, node.name)
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    ]
    anys = sum(len(re.findall(r"\bAny\b", text)) for text in texts.values())
    print(f"modules: {len(texts)} ({sum(count == 0 for count in code.values())} of them without code)")
    print(f"code lines: {sum(code.values())}")
    lines = [sum(len(path.read_text(encoding="utf-8").splitlines()) for path in each) for each in (every, tests)]
    print(f"test lines: {lines[0]} ({lines[1]} without benchmarks)")
    largest = max(code, key=lambda path: code[path])
    print(f"largest file: {largest.relative_to(root)}, {code[largest]} code lines; largest class: {max(classes)}")
    print(
        f"files that name warmup_max_lr: {[p.relative_to(root).name for p, t in texts.items() if 'warmup_max_lr' in t]}"
    )
    print(f"Any in 1,000 lines: {1000 * anys / sum(len(text.splitlines()) for text in texts.values()):.0f}"
          f" ({1000 * anys / sum(code.values()):.0f} in 1,000 code lines)")  # fmt: skip
    for name, (frames, modules, switches) in ways().items():
        print(f"{name}: {frames} frames, {modules} modules, {switches} switches")


if __name__ == "__main__":
    main()
