"""Experiments with trained models, beside what the constructions compute exactly.

small_model.py is the model class of `construct.transformer` with weights that gradient descent can change;
one_layer.py asks how well one layer of it does as the number of examples grows (docs/theory/depth.md). What training
finds is no proof: a better optimiser may find better weights.
"""
