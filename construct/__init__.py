"""Transformer weights built by hand that run K in-context tasks in superposition.

After Xiong et al., "Everything Everywhere All at Once: LLMs can In-Context Learn Multiple Tasks in
Superposition" (arXiv 2410.05603, ICML 2025). Importing this package does no work: import the module that you
need, for example ``from construct.theorems import two_layer``.
"""
