"""Proofs about the weights as they are: symbolic, exact and numeric.

Importing this package does no work: import the module that you need.
"""
