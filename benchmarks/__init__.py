"""Benchmarks of the construction and of its proof: `make bench`, or `python -m benchmarks.run --help`.

run.py runs the benchmarks and reports; each benchmark is a module with a function `run`; measure.py starts a fresh
process for every measurement, and steps.py, or proof_steps.py, is what runs in it. None but these and task_sets.py
imports numpy, torch or the packages, so that the process that starts the others stays small.

Apart from these, campaign.py (`make mutants`) judges altered weights, and prover_mutants.py (`make mutants-prover`)
alters the prover itself.
"""
