"""Stock Hugging Face models from a configuration, with random weights.

GPT2LMHeadModel has learned absolute positions, as in the paper; LlamaForCausalLM has rotary ones. Prompts are made on
the spot and none comes twice, so there is no dropout.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from construct.errors import InputError
from construct.prompts import Layout
from empirical.training.settings import GPT2, Settings

EXTRA_TOKENS = 2
"""<unk> and <pad>, which the tokenizer has after BOS and EQ."""


def library(name: str) -> Any:
    """transformers, without its progress bars, or accelerate; their own types do not fit their dynamic classes."""
    try:
        found: Any = import_module(name)
        if name == "transformers":
            found.utils.logging.disable_progress_bar()
        return found
    except ModuleNotFoundError as error:
        raise InputError(
            f"training needs the package {error.name}: pip install 'task-superposition[pretrained]'"
        ) from error


def make_model(settings: Settings, layout: Layout) -> Any:
    """A model in float32 on the CPU; its weights are decided by the seed."""
    transformers = library("transformers")
    positions = settings.context or layout.positions
    common = {
        "vocab_size": layout.vocabulary_size + EXTRA_TOKENS,
        "bos_token_id": layout.bos,
        "eos_token_id": None,
        "pad_token_id": None,
        "use_cache": True,
    }
    inner = settings.mlp_width or 4 * settings.width
    if settings.architecture == GPT2:
        configuration = transformers.GPT2Config(
            n_positions=positions,
            n_embd=settings.width,
            n_layer=settings.layers,
            n_head=settings.heads,
            n_inner=inner,
            # GPT-2's own gelu_new approximates this within 5e-4, and takes three times as long or more backwards.
            activation_function="gelu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **common,
        )
    else:
        configuration = transformers.LlamaConfig(
            max_position_embeddings=positions,
            hidden_size=settings.width,
            intermediate_size=inner,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            **common,
        )
    torch.manual_seed(settings.seed)
    return transformers.AutoModelForCausalLM.from_config(configuration, dtype=torch.float32)


def logits_at(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The logits at some positions of ids [batch, T]: [batch, positions, vocabulary]."""
    found: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=positions).logits
    return found


def answer_loss(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The mean of -log p(answer) over the EQs of whole prompts [batch, T+1]; `positions` are those of the EQs."""
    logits = logits_at(model, ids[:, :-1], positions)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, positions + 1].flatten())


def decayed(model: Any, settings: Settings) -> list[dict[str, Any]]:
    """The parameters in two groups: matrices, whose weights decay, and norms and biases."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    return [
        {"params": [one for one in parameters if one.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.dim() < 2], "weight_decay": 0.0},
    ]


def make_optimiser(model: Any, settings: Settings) -> torch.optim.AdamW:
    """AdamW by one fused kernel where the device has it."""
    fused = settings.device in ("cpu", "cuda")
    return torch.optim.AdamW(decayed(model, settings), lr=settings.rate, betas=(0.9, settings.beta2), fused=fused)
