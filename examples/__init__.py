"""Short scripts to start from: `python -m examples.NAME`."""
