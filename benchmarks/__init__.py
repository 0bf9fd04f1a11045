"""Benchmarks of the construction: `make bench`, or `python -m benchmarks.run --help`.

run.py runs the benchmarks and reports; each benchmark is a module with a function `run`; measure.py starts a fresh
process for every measurement, and steps.py is what runs in it. Nothing but steps.py imports numpy, torch or the
packages, so that the process that starts the others stays small.
"""
