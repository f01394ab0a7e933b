"""Commands that the installed package offers: `python -m recsim_env COMMAND --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from recsim_env.commands import check_log, fit
from recsim_env.commands.refusals import INTERRUPTED, STOPPED, sentence

COMMANDS = {"check-log": check_log, "fit": fit}
"""Modules with `SUMMARY`, `add_options(parser)` and `run(options)`, by command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, or 2 where the input or the machine is to blame, which one sentence on
        stderr says, or 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m recsim_env", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_options(
            commands.add_parser(name, help=command.SUMMARY, description=command.SUMMARY)
        )
    options = parser.parse_args(arguments)
    try:
        COMMANDS[options.command].run(options)
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        print(f"{parser.prog} {options.command}: {said}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
