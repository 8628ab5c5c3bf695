#!/usr/bin/env python3
"""Writes the test vectors in this folder: what PyTorch's autograd and AdamW say of the model, in float64.

    pip install torch numpy safetensors && python make_vectors.py

One safetensors file for each kind of model. The model is written one token and one expert at a time, as
its definition reads. Numbers are stored as F64, token ids as I64, under these names:

  param.NAME               parameter, [out, in]
  in.tokens, in.targets    [T, B]     token ids
  in.h0.I                  [B, E, H]  state of layer I before the first token
  out.logits               [T, B, V]
  out.h.I                  [B, E, H]  state of layer I after the last token
  out.loss                 []         mean cross entropy of all targets, nats
  grad.NAME                gradient of the loss
  step3.NAME               parameter after three AdamW steps on this batch, from the same initial states

The files' metadata holds the configuration as strings.
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).parent
# A tie or a close call between two experts would make the choice, and so the answer, a matter of rounding.
SMALLEST_MARGIN = 1e-3

DEFAULTS = dict(tied=False, eps_rmsnorm=2.0**-17, lr=2e-3, beta1=0.9, beta2=0.98, eps_adamw=1e-8, weight_decay=0.1,
                clip=0.4)
VECTORS = {
    "dense": dict(seed=101, steps=6, batch=2, vocab=13, dim=6, hidden=6, layers=2, experts=3, top_k=3),
    # A normalisation epsilon that shows in every number, and gradients that aren't clipped.
    "tied": dict(seed=102, steps=5, batch=3, vocab=14, dim=8, hidden=8, layers=2, experts=2, top_k=2, tied=True,
                 eps_rmsnorm=2.0**-4, clip=1e3),
    "top2": dict(seed=103, steps=9, batch=2, vocab=11, dim=7, hidden=7, layers=2, experts=4, top_k=2),
    # An AdamW epsilon that shows in every step.
    "top1": dict(seed=104, steps=8, batch=3, vocab=12, dim=6, hidden=6, layers=2, experts=3, top_k=1, eps_adamw=1e-3),
    "projected": dict(seed=105, steps=7, batch=3, vocab=17, dim=5, hidden=7, layers=2, experts=3, top_k=2),
    "odd_sizes": dict(seed=106, steps=3, batch=5, vocab=19, dim=11, hidden=7, layers=1, experts=5, top_k=5),
    "one_expert": dict(seed=107, steps=4, batch=1, vocab=7, dim=3, hidden=5, layers=2, experts=1, top_k=1),
    # The embedding is projected to fewer values, and the layers above aren't projected.
    "narrow_top1": dict(seed=108, steps=6, batch=2, vocab=9, dim=8, hidden=3, layers=3, experts=4, top_k=1),
}


def make_parameters(config, random):
    """Random parameters, large enough that no part of the model runs in its linear range only."""
    V, D, H, E = (config[key] for key in ("vocab", "dim", "hidden", "experts"))
    uniform = lambda *shape, span: (torch.rand(*shape, generator=random) * 2 - 1) * span
    parameters = {"embedding.weight": uniform(V, D, span=1.0)}
    for layer in range(config["layers"]):
        inputs, name = (D if layer == 0 else H), f"layers.{layer}."
        parameters[name + "router.weight"] = uniform(E, inputs, span=1.2)
        parameters[name + "router.bias"] = uniform(E, span=0.5)
        for part in ("update", "candidate"):
            parameters[name + part + ".weight"] = uniform(E, H, inputs, span=0.8)
            parameters[name + part + ".bias"] = uniform(E, H, span=0.5)
        parameters[name + "recurrent.weight"] = uniform(E, H, H, span=0.6)
        if inputs != H:
            parameters[name + "residual.weight"] = uniform(H, inputs, span=0.7)
            parameters[name + "residual.bias"] = uniform(H, span=0.5)
        parameters[name + "norm.weight"] = 1 + uniform(H, span=0.4)
    if not config["tied"]:
        parameters["head.weight"] = uniform(V, H, span=0.8)
    parameters["head.bias"] = uniform(V, span=0.5)
    return {name: value.requires_grad_() for name, value in parameters.items()}


def choose(scores, config):
    """The ids of the active experts and every expert's gate, from one token's scores [E]."""
    E, k = config["experts"], config["top_k"]
    ranked, order = scores.sort(descending=True)
    if k < E and ranked[k - 1] - ranked[k] < SMALLEST_MARGIN:
        raise ValueError("two experts are too close: choose another seed")
    active = order[:k].tolist()
    if k == 1:
        probability = scores.softmax(0)
        return active, {active[0]: probability[active[0]]}
    return active, dict(zip(active, scores[active].softmax(0)))


def run_layer(parameters, layer, config, x, states):
    """One token: from the input [D] and the experts' states, a list of [H], to the output and the new states."""
    get = lambda part: parameters.get(f"layers.{layer}.{part}")
    active, gates = choose(get("router.weight") @ x + get("router.bias"), config)
    states = list(states)
    y = x if get("residual.weight") is None else get("residual.weight") @ x + get("residual.bias")
    for e in active:
        z = torch.sigmoid(get("update.weight")[e] @ x + get("update.bias")[e])
        recurrent = get("recurrent.weight")[e] @ states[e]
        c = F.gelu(get("candidate.weight")[e] @ x + get("candidate.bias")[e] + recurrent, approximate="none")
        states[e] = (1 - z) * states[e] + z * c
        y = y + gates[e] * states[e]
    return y / torch.sqrt((y * y).mean() + config["eps_rmsnorm"]) * get("norm.weight"), states


def run_model(parameters, config, tokens, initial_states):
    """tokens [T, B], one [B, E, H] a layer: the logits [T, B, V] and the states after the last token."""
    head = parameters["embedding.weight" if config["tied"] else "head.weight"]
    states = [[list(stream) for stream in layer] for layer in initial_states]  # layer, stream, expert: [H]
    logits = []
    for step in tokens.tolist():
        for stream, token in enumerate(step):
            x = parameters["embedding.weight"][token]
            for layer in range(config["layers"]):
                x, states[layer][stream] = run_layer(parameters, layer, config, x, states[layer][stream])
            logits.append(head @ x + parameters["head.bias"])
    logits = torch.stack(logits).reshape(*tokens.shape, -1)
    return logits, [torch.stack([torch.stack(stream) for stream in layer]) for layer in states]


def take_adamw_steps(parameters, config, loss, count):
    """`count` steps of AdamW on `loss()`, with decay on matrices only and gradients clipped."""
    decays = lambda name: name.endswith(".weight") and not name.endswith("norm.weight")
    group = lambda decay: [value for name, value in parameters.items() if decays(name) == decay]
    groups = [
        {"params": group(True), "weight_decay": config["weight_decay"]},
        {"params": group(False), "weight_decay": 0.0},
    ]
    betas = (config["beta1"], config["beta2"])
    adamw = torch.optim.AdamW(groups, lr=config["lr"], betas=betas, eps=config["eps_adamw"])
    for _ in range(count):
        adamw.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), config["clip"])
        adamw.step()


def make_vector(name, config):
    random = torch.Generator().manual_seed(config["seed"])
    parameters = make_parameters(config, random)
    T, B, L = config["steps"], config["batch"], config["layers"]
    tokens, targets = torch.randint(0, config["vocab"], (2, T, B), generator=random)
    state_shape = (B, config["experts"], config["hidden"])
    initial = [torch.rand(*state_shape, generator=random) * 2 - 1 for _ in range(L)]

    def loss():
        logits, _ = run_model(parameters, config, tokens, initial)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    logits, states = run_model(parameters, config, tokens, initial)
    vector = {"in.tokens": tokens, "in.targets": targets, "out.logits": logits, "out.loss": loss()}
    vector |= {f"in.h0.{layer}": state for layer, state in enumerate(initial)}
    vector |= {f"out.h.{layer}": state for layer, state in enumerate(states)}
    loss().backward()
    vector |= {f"param.{key}": value.detach().clone() for key, value in parameters.items()}
    vector |= {f"grad.{key}": value.grad.clone() for key, value in parameters.items()}
    norm = torch.cat([value.grad.flatten() for value in parameters.values()]).norm().item()
    take_adamw_steps(parameters, config, loss, 3)
    vector |= {f"step3.{key}": value for key, value in parameters.items()}

    metadata = {key: str(value).lower() for key, value in (config | {"grad_norm": norm}).items()}
    path = HERE / f"{name}.safetensors"
    file = save({key: value.detach().contiguous().clone() for key, value in vector.items()}, metadata)
    path.write_bytes(sort_header(file))
    print(f"{name}: {path.stat().st_size} bytes, loss {vector['out.loss'].item():.9f}, gradient norm {norm:.9f}")


def sort_header(file):
    """A safetensors file with its header's keys sorted: the library writes the metadata in random order."""
    length = int.from_bytes(file[:8], "little")
    header, data = json.loads(file[8 : 8 + length]), file[8 + length :]
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


if __name__ == "__main__":
    for name, config in VECTORS.items():
        make_vector(name, DEFAULTS | config)
