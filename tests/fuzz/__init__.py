"""The net: property tests that draw any option, any action, any seed and any file, with the right
outcome stated.

`values` holds odd values and what each stands for, `kinds` says which of them an argument may be
given, and the modules `options`, `playing`, `parts` and `folders` draw cases: a call, and what must
come of it. `judge` says what came of it. `census` counts the outcomes of many fresh cases. Every
list of names is read from a registry or a signature, so that a new part of the project is under
test as soon as it is registered.
"""
