"""Models trained from scratch on in-context tasks, one task a prompt: `construct train`.

settings.py says what decides a run, presets.py names some; pools.py turns a task set into tensors and prompts.py draws
prompts from them on the device; models.py makes stock Hugging Face models from a configuration; validation.py asks them
pure and mixed prompts; progress.py keeps the log; checkpoint.py writes and takes up; loop.py trains.
"""
