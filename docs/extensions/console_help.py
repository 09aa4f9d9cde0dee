"""What the console command prints: ``.. console-help:: preview`` shows ``lightning-lrsched preview --help``."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from lightning_lrsched.__main__ import main


class ConsoleHelp(Directive):
    """Shows what the command prints when it is asked for help."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        os.environ["COLUMNS"] = "100"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*self.arguments, "--help"])
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("console-help", ConsoleHelp)
    return {"parallel_read_safe": True}
