"""Figures of the theory and of the comparisons: each is a pure function of records.

`registry` names them and says what a figure's module has; `make` draws and writes them; `construct figures` is
`paper_figures.commands.figures`.
"""
