"""Named sizes for `construct train`; every one of their numbers can be given as an option instead.

The hyperparameters of Xiong et al. (arXiv 2410.05603, section 4) are not known to us: these are ours. `paper` has the
size of the smallest published GPT-2, which the paper names, and the suite that it trains on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from empirical.training.settings import GPT2, LLAMA, Settings


@dataclass(frozen=True)
class Preset:
    """A suite with its sizes, and the settings.

    Args:
        summary: what it is for, in a line.
        settings: of the training.
        suite: the suite.
        tasks: K.
        alphabet_size: V.
        inputs: n.
    """

    summary: str
    settings: Settings
    suite: str = "retrieval"
    tasks: int = 3
    alphabet_size: int = 16
    inputs: int = 3


PRESETS: Mapping[str, Preset] = {
    "cpu": Preset(
        "about 3 minutes on one core",
        # Matrices this small gain nothing from a second thread. docs/training-study.md says what it reaches.
        Settings(
            architecture=LLAMA,
            layers=2,
            heads=2,
            width=32,
            mlp_width=64,
            examples=12,
            batch=64,
            steps=2500,
            rate=4e-3,
            threads=1,
        ),
    ),
    "small": Preset(
        "a few minutes on one GPU",
        Settings(architecture=LLAMA, layers=4, heads=8, width=256, examples=40, batch=256, steps=10_000, rate=1e-3),
        tasks=8,
        alphabet_size=26,
        inputs=8,
    ),
    "paper": Preset(
        "the size of GPT-2 small, on GPUs",
        Settings(
            architecture=GPT2,
            layers=12,
            heads=12,
            width=768,
            examples=60,
            batch=256,
            steps=100_000,
            rate=3e-4,
            warmup=2000,
            weight_decay=0.1,
            validation_prompts=512,
        ),
        tasks=8,
        alphabet_size=26,
        inputs=8,
    ),
}
