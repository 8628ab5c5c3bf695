#!/usr/bin/env python3
"""Runs an exported shoestring model in PyTorch and measures its loss on a text.

    shoestring export checkpoints/best.shoe exported
    pip install torch safetensors tokenizers numpy
    python docs/export.py exported held-out.txt

Reads `model.safetensors` and `tokenizer.json` in the folder and nothing else, and prints what
`shoestring eval` prints for the same text. It is meant to be read: one function a part of the model,
plain PyTorch, float64 unless told otherwise. It is not fast.

Sizes in comments: T tokens of a chunk, V vocabulary, D width of a layer's input (the embedding's for the
first layer, H after it), H width of the state, E experts.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from tokenizers import Tokenizer

EOS = 2  # id of [EOS], which is read before the first token of a text
CHUNK = 512  # tokens computed at once; the state is carried on, so the result does not depend on it


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the steps are too small to share: more threads only wait for each other
    model = Model.open(arguments.folder / "model.safetensors", getattr(torch, arguments.dtype))
    tokenizer = Tokenizer.from_file(str(arguments.folder / "tokenizer.json"))
    text = read_text(arguments.text)
    # Special tokens are matched in the text; none is added.
    tokens = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.int64)  # [N]
    if len(tokens) == 0:
        raise SystemExit(f"{arguments.text} is empty")

    start = time.perf_counter()
    nats = total_loss(model, tokens)
    seconds = time.perf_counter() - start

    report = {
        "nats": nats,
        "tokens": len(tokens),
        "chars": len(text),
        "bytes": len(text.encode()),
        "nats_per_token": nats / len(tokens),
        "nats_per_char": nats / len(text),
        "bits_per_byte": nats / math.log(2) / len(text.encode()),
        "tokens_per_second": len(tokens) / seconds,
    }
    print(json.dumps(report) if arguments.json else as_text(report))


@torch.no_grad()
def total_loss(model, tokens):
    """Nats to predict all of `tokens` [N], each from [EOS] and the tokens before it."""
    inputs = torch.cat([torch.tensor([EOS]), tokens[:-1]])  # [N]
    state = model.initial_state()
    nats = 0.0
    for first in range(0, len(tokens), CHUNK):
        logits, state = model.forward(inputs[first : first + CHUNK], state)
        targets = tokens[first : first + CHUNK]
        nats += F.cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64).item()
    return nats


@dataclass
class Model:
    """The parameters by name, and what their shapes don't show."""

    parameters: dict  # name -> tensor, matrices [out, in]
    layers: int
    top_k: int
    eps_rmsnorm: float

    @staticmethod
    def open(path, dtype):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parameters = {name: file.get_tensor(name).to(dtype) for name in file.keys()}
        layers = 0
        while f"layers.{layers}.recurrent.weight" in parameters:
            layers += 1
        experts = parameters["layers.0.recurrent.weight"].shape[0]
        top_k = int(metadata.get("top_k", experts))
        return Model(parameters, layers, top_k, float(metadata.get("eps_rmsnorm", 1e-5)))

    def initial_state(self):
        """The state at the start of a text: zero, [E, H] a layer."""
        experts, hidden, _ = self.parameters["layers.0.recurrent.weight"].shape
        dtype = self.parameters["embedding.weight"].dtype
        return [torch.zeros(experts, hidden, dtype=dtype) for _ in range(self.layers)]

    def forward(self, tokens, state):
        """Logits [T, V] after each of `tokens` [T], read from `state` on, and the state after them."""
        embedding = self.parameters["embedding.weight"]  # [V, D]
        head = self.parameters.get("head.weight", embedding)  # [V, H]; a tied model has no head.weight
        x = embedding[tokens]  # [T, D]
        state_after = []
        for i, h in enumerate(state):
            x, h = self.layer(i, x, h)
            state_after.append(h)
        return x @ head.T + self.parameters["head.bias"], state_after

    def layer(self, i, x, h):
        """Output [T, H] of layer `i` for its input `x` [T, D], and the state [E, H] that `h` becomes."""
        prefix = f"layers.{i}."
        p = {name.removeprefix(prefix): t for name, t in self.parameters.items() if name.startswith(prefix)}
        gate, active = route(x @ p["router.weight"].T + p["router.bias"], self.top_k)  # both [T, E]
        states, h = run_experts(p, x, h, active)
        residual = x @ p["residual.weight"].T + p["residual.bias"] if "residual.weight" in p else x  # [T, H]
        y = torch.einsum("te,teh->th", gate, states) + residual  # [T, H]
        inverse_rms = torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + self.eps_rmsnorm)  # [T, 1]
        return y * inverse_rms * p["norm.weight"], h


def route(scores, top_k):
    """Gates [T, E] and which experts are active [T, E], from the router's scores [T, E]."""
    experts = scores.shape[-1]
    if top_k == experts:
        return scores.softmax(dim=-1), torch.ones_like(scores, dtype=torch.bool)
    # Of equal scores the lowest id wins: a stable sort, unlike topk, says so.
    chosen = scores.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]  # [T, k]
    active = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True)
    if top_k == 1:
        # Not renormalised: the gate is the expert's share among all.
        return scores.softmax(dim=-1) * active, active
    return scores.masked_fill(~active, -math.inf).softmax(dim=-1), active


def run_experts(p, x, h, active):
    """Every expert's state after each step [T, E, H], and after the last [E, H]."""
    # What does not depend on the state, for all steps at once.
    z = torch.sigmoid(torch.einsum("td,ehd->teh", x, p["update.weight"]) + p["update.bias"])  # [T, E, H]
    a = torch.einsum("td,ehd->teh", x, p["candidate.weight"]) + p["candidate.bias"]  # [T, E, H]
    z = z * active[:, :, None]  # a closed update gate holds the state: an inactive expert's stays as it is
    states = torch.empty_like(z)
    for t in range(len(x)):
        recurrent = torch.bmm(p["recurrent.weight"], h[:, :, None])[:, :, 0]  # [E, H]
        c = F.gelu(a[t] + recurrent)  # the exact, erf form
        h = (1 - z[t]) * h + z[t] * c
        states[t] = h
    return states, h


def read_text(path):
    """The text in the file, as `shoestring eval` reads it: no byte-order mark, line ends LF."""
    try:
        return path.read_bytes().decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SystemExit(f"{path} is not UTF-8, which the tokenizers package needs: {error}")


def as_text(report):
    return (
        f"{report['nats_per_char']:.4f} nats/char\n"
        f"{report['bits_per_byte']:.4f} bits/byte\n"
        f"{report['nats_per_token']:.4f} nats/token\n"
        f"{report['nats']:.1f} nats over {report['tokens']} tokens, "
        f"{report['chars']} characters, {report['bytes']} bytes\n"
        f"{report['tokens_per_second']:.0f} tokens/s"
    )


def parse_arguments():
    parser = argparse.ArgumentParser(description="Measures an exported shoestring model's loss on a text.")
    parser.add_argument("folder", type=Path, help="folder with model.safetensors and tokenizer.json")
    parser.add_argument("text", type=Path, help="text file to measure on")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
