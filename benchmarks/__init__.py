"""Commands that measure and train; `benchmarks/README.md` lists them."""

import os
import sys

if (
    not sys.stderr.isatty()
):  # in a file, every refresh of tqdm's bars stays: one in half a minute is enough
    os.environ.setdefault("TQDM_MININTERVAL", "30")
    os.environ.setdefault("TQDM_MAXINTERVAL", "60")
