r"""A transformer with causal softmax attention, ReLU MLPs and no normalisation. Needs torch and nothing else.

    X = E[token] + P[position]
    in each layer:  X += sum_h softmax(mask(X Wq Wk' X')) X Wv Wo,  then  X += relu(X W1 + b1) W2 + b2
    logits = X U,  mixture = X M

After an arrow `mixture` is q = sum_k (c_k/m') u[g_k(query)], where c_k of the m' examples before follow task k, and
softmax(logits) is q / sum(q). The scores' scale is in Wq. A prompt starts at position 0: pad on the right, if at all.

    python model.py PROMPT.txt         # one example a line, the query last

    model, vocabulary = load(".")
    logits, mixture = model(torch.tensor([encode("a b->a\nb a->", vocabulary)]))

The weights are in model.safetensors, everything in float32; `model.double()` computes in float64.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """What the model gives at every position.

    Args:
        logits: shape [batch, length, vocabulary].
        mixture: q, not normalised, shape [batch, length, alphabet].
    """

    logits: Tensor
    mixture: Tensor


class Layer(nn.Module):
    """Attention, then MLP.

    Args:
        attention: query, key [heads, d_model, d_qk], value [heads, d_model, d_value], output [heads, d_value, d_model];
            empty in a layer without heads.
        mlp: w_in [d_model, width], bias_in [width], w_out [width, d_model], bias_out [d_model].
    """

    def __init__(self, attention: Mapping[str, Tensor], mlp: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.attention, self.mlp = nn.ParameterDict(attention), nn.ParameterDict(mlp)

    def forward(self, stream: Tensor) -> Tensor:
        """The residual stream after the layer, shape [batch, length, d_model] as before it."""
        if len(self.attention):
            stream = stream + self._attend(stream)
        hidden = torch.relu(stream @ self.mlp["w_in"] + self.mlp["bias_in"])
        after: Tensor = stream + (hidden @ self.mlp["w_out"] + self.mlp["bias_out"])
        return after

    def _attend(self, stream: Tensor) -> Tensor:
        heads = stream.unsqueeze(1)  # [batch, 1, length, d_model], to go with [heads, d_model, ..]
        query, key, value = (heads @ self.attention[name] for name in ("query", "key", "value"))
        length = stream.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
        scores = (query @ key.transpose(-1, -2)).masked_fill(later, -torch.inf)
        written: Tensor = (scores.softmax(-1) @ value @ self.attention["output"]).sum(1)
        return written


class Transformer(nn.Module):
    """The model, made of its tensors: what `read_tensors` gives, and `state_dict` again."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.embedding = nn.ParameterDict(_below(tensors, "embedding."))
        count = len({name.split(".")[1] for name in tensors if name.startswith("layers.")})
        parts = ((f"layers.{place}.attention.", f"layers.{place}.mlp.") for place in range(count))
        self.layers = nn.ModuleList(Layer(*(_below(tensors, part) for part in both)) for both in parts)
        self.unembedding = nn.ParameterDict(_below(tensors, "unembedding."))

    def forward(self, ids: Tensor) -> Output:
        """The output at every position, for ids of shape [batch, length]. Raises ValueError for too long a prompt."""
        positions = self.embedding["position"]
        if ids.shape[1] > len(positions):
            raise ValueError(f"the prompt has {ids.shape[1]} tokens: at most {len(positions)} fit")
        stream = self.embedding["token"][ids] + positions[: ids.shape[1]]
        for layer in self.layers:
            stream = layer(stream)
        return Output(stream @ self.unembedding["logits"], stream @ self.unembedding["mixture"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file of float32: 8 bytes with the header's length, JSON, then the numbers."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, end = (start + offset for offset in entry["data_offsets"])
            numbers = torch.frombuffer(bytearray(content[first:end]), dtype=torch.float32)
            found[name] = numbers.reshape(entry["shape"])
    return found


def load(folder: str | Path) -> tuple[Transformer, dict[str, Any]]:
    """The model of a folder and its vocabulary.json."""
    vocabulary = json.loads(Path(folder, "vocabulary.json").read_text(encoding="utf-8"))
    return Transformer(read_tensors(Path(folder, "model.safetensors"))), vocabulary


def encode(text: str, vocabulary: Mapping[str, Any]) -> list[int]:
    """The ids of a prompt: BOS, then of each line the inputs, the arrow, the answer. Raises ValueError."""
    count, separator, arrow = vocabulary["inputs"], vocabulary["separator"], vocabulary["arrow"].strip()
    known = {token: index for index, token in enumerate(vocabulary["tokens"][: vocabulary["alphabet"]])}
    ids = [vocabulary["bos"]]
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if count > 1 and not separator:  # tokens of one length with nothing between them
            length = len(vocabulary["tokens"][0])
            left, rest = line[: count * length], line[count * length :].strip()
            found, answer = rest.startswith(arrow), rest.removeprefix(arrow)
            parts = [left[start : start + length] for start in range(0, len(left), length)]
        else:
            left, cut, answer = line.partition(arrow)
            found = bool(cut)
            parts = left.split(separator.strip() or None) if count > 1 else [left]
        tokens = [part.strip() for part in (*parts, answer)]
        if not found or len(parts) != count or not {*tokens[:-1], tokens[-1] or tokens[0]} <= known.keys():
            raise ValueError(f"{line!r}: expected {count} of the {len(known)} tokens, {arrow!r}, and an answer")
        ids += [*(known[token] for token in tokens[:-1]), vocabulary["eq"]]
        ids += [known[tokens[-1]]] if tokens[-1] else []
    return ids


def main() -> None:
    """Print the tokens that may follow a prompt, with their probabilities."""
    model, vocabulary = load(Path(__file__).parent)
    ids = encode(Path(sys.argv[1]).read_text(encoding="utf-8"), vocabulary)
    with torch.inference_mode():
        probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    for index in probabilities.argsort(descending=True, stable=True)[:10].tolist():
        if probabilities[index] > 0.001:
            sys.stdout.write(f"{vocabulary['tokens'][index]} {probabilities[index]:.4f}\n")


if __name__ == "__main__":
    main()
