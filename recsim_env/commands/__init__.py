"""Commands of the installed package: one module each, with `SUMMARY`, `add_options` and `run`."""
