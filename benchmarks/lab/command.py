"""How every command runs: options from the command line, errors in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from recsim_env.commands.refusals import INTERRUPTED, STOPPED, sentence

Config = TypeVar("Config")


def run_command(main: Callable[[Config], Any], config: type[Config]) -> None:
    """Run a command with the options of the command line.

    What is wrong with them, with a file or with the machine is one sentence on stderr, and the exit
    status is 2. A fault of the program has its traceback. Ctrl-C is one line, and status 130.

    Args:
        main: What the command does.
        config: The class of its options.
    """
    try:
        main(tyro.cli(config))
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        print(said, file=sys.stderr)
        sys.exit(2)
