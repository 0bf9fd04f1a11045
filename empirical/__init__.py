"""Models measured on the same prompts: constructed, trained, pretrained.

`language_model` opens a model, `settings` draws the questions, `tokenizing`, `scoring` and `search` find what the model
says to them. `measures` and `superposition_index` are what that amounts to; `evaluation` runs it, `records` keeps it,
`report` prints it. `open_model` looks inside, for `task_vectors` with their `geometry`, and for `mechanism` with its
`heads` and `positions`. `one_layer` is an experiment of its own, on how well one trained layer does
(docs/theory/depth.md). What is measured is no proof: that is `verify`'s.
"""
