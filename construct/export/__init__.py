"""Constructions for other people's tools: stock model classes, plain torch, ONNX.

In `readout` four more MLPs make softmax(logits) the mixture; in `gpt2` the weights become those of an unmodified GPT-2.
"""
