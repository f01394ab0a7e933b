"""Every command that goes on after a kill is killed, run to its end, and held against one unbroken.

`python -m tests.kill` (or `make kill`) kills each command before and after every file operation, in
the middle of writing, and at random moments; `tests/kill/test_kill.py` does ten kills of each with
`make test`.
"""
