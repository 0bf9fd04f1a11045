"""A construction as an unmodified GPT-2, for tests: a pretrained model whose every answer is known.

The norms are neutralised: with eps = 2^60 and weight 2^30 a layer norm gives x - mean(x), and a balance coordinate, to
which every writer adds minus the sum of its other outputs, keeps the mean at 0. One more block turns the
output q into logits: per token, hinges through the points (j/m, TOP + log(j/m)) and (0, 0), so that for prompts of m
examples softmax is q / sum(q), but for exp(-TOP) a token.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from construct.theorems import Construction

TOP = 15.0
EPSILON, SCALE = 2.0**60, 2.0**30


def save_stock(construction: Construction, directory: Path) -> Path:
    """Save a construction of one-input tasks as a GPT-2 with a word-level tokenizer."""
    model = _model(construction)
    with torch.no_grad():
        for name, tensor in _weights(construction, model.config).items():
            model.get_parameter(name).copy_(torch.from_numpy(tensor))
    model.save_pretrained(directory)
    _tokenizer(construction).save_pretrained(directory)
    return directory


def _model(construction: Construction) -> GPT2LMHeadModel:
    weights, layout = construction.weights, construction.layout
    heads = max(weights.heads)
    widest = max(max(layer.attention.query.shape[2], layer.attention.value.shape[2]) for layer in weights.layers)
    needed = weights.d_model + layout.alphabet_size + 1
    config = GPT2Config(
        vocab_size=layout.vocabulary_size,
        n_positions=layout.positions,
        n_embd=heads * max(-(-needed // heads), widest),
        n_layer=len(weights.layers) + 1,
        n_head=heads,
        n_inner=max(*weights.mlp_width, layout.alphabet_size * layout.examples),
        activation_function="relu",
        layer_norm_epsilon=EPSILON,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=layout.bos, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def _weights(construction: Construction, config: Any) -> dict[str, np.ndarray]:
    weights, layout = construction.weights, construction.layout
    d, v, width, inner = weights.d_model, layout.alphabet_size, config.n_embd, config.n_inner
    head, logits = width // config.n_head, weights.d_model

    def balanced(matrix: np.ndarray) -> np.ndarray:
        """Rows that are added to the stream: widened, with minus their sum at the last coordinate."""
        wide = np.zeros((*matrix.shape[:-1], width), dtype=np.float32)
        wide[..., : matrix.shape[-1]] = matrix
        wide[..., -1] = -matrix.astype(np.float64).sum(-1)
        return wide

    found: dict[str, np.ndarray] = {
        "transformer.wte.weight": balanced(weights.token_embedding.toarray()),
        "transformer.wpe.weight": balanced(weights.position_embedding.toarray()),
        "transformer.ln_f.weight": np.full(width, SCALE, dtype=np.float32),
        "lm_head.weight": np.zeros((layout.vocabulary_size, width), dtype=np.float32),
    }
    found["lm_head.weight"][range(v), range(logits, logits + v)] = 1
    for place in range(config.n_layer):
        at = f"transformer.h.{place}"
        joined = np.zeros((width, 3, config.n_head, head), dtype=np.float32)
        outward = np.zeros((config.n_head, head, width), dtype=np.float32)
        w_in, bias_in = np.zeros((width, inner), dtype=np.float32), np.zeros(inner, dtype=np.float32)
        w_out, bias_out = np.zeros((inner, width), dtype=np.float32), np.zeros(width, dtype=np.float32)
        if place < len(weights.layers):
            attention, mlp = weights.layers[place].attention, weights.layers[place].mlp
            for part, matrix in enumerate((attention.query * math.sqrt(head), attention.key, attention.value)):
                joined[:d, part, : matrix.shape[0], : matrix.shape[2]] = matrix.transpose(1, 0, 2)
            outward[: attention.output.shape[0], : attention.output.shape[1]] = balanced(attention.output)
            units = mlp.w_in.shape[1]
            w_in[:d, :units], bias_in[:units] = mlp.w_in.toarray(), mlp.bias_in
            w_out[:units], bias_out = balanced(mlp.w_out.toarray()), balanced(mlp.bias_out)
        else:
            w_in[:d, : v * layout.examples], bias_in[: v * layout.examples], steps = _hinges(construction)
            rows = np.zeros((v * layout.examples, d + v), dtype=np.float32)
            rows[range(len(rows)), d + np.repeat(np.arange(v), layout.examples)] = np.tile(steps, v)
            w_out[: len(rows)] = balanced(rows)
        found |= {f"{at}.{norm}.weight": np.full(width, SCALE, dtype=np.float32) for norm in ("ln_1", "ln_2")}
        found[f"{at}.attn.c_attn.weight"] = joined.reshape(width, 3 * width)
        found[f"{at}.attn.c_proj.weight"] = outward.reshape(width, width)
        found |= {f"{at}.mlp.c_fc.weight": w_in, f"{at}.mlp.c_fc.bias": bias_in}
        found |= {f"{at}.mlp.c_proj.weight": w_out, f"{at}.mlp.c_proj.bias": bias_out}
    return found


def _hinges(construction: Construction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each token relu(q - j/m), j = 0 .. m-1, and what each adds to the slope of its logit."""
    m, v = construction.layout.examples, construction.layout.alphabet_size
    unembedding = construction.weights.unembedding.toarray()
    values = np.array([0.0, *(TOP + math.log(count / m) for count in range(1, m + 1))])
    slopes = np.diff(values) * m
    changes = np.diff(slopes, prepend=0.0).astype(np.float32)
    places = np.tile(np.arange(m) / m, v).astype(np.float32)
    return np.repeat(unembedding, m, axis=1), -places, changes


def _tokenizer(construction: Construction) -> PreTrainedTokenizerFast:
    layout, task_set = construction.layout, construction.task_set
    arrow = task_set.format.arrow.strip()
    vocabulary = {**task_set.ids, "<s>": layout.bos, arrow: layout.eq}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "removed"), pre_tokenizers.Split(arrow, "isolated")]
    )
    made.decoder = decoders.Fuse()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", layout.bos)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")
