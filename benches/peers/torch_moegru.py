#!/usr/bin/env python3
"""The MoE-GRU language model in PyTorch, to measure shoestring against: training or decoding speed.

    pip install torch numpy
    python3 benches/peers/torch_moegru.py [--compile] [--threads 2] [--decode 500]
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, WIDTH, LAYERS, EXPERTS, STEPS, BATCH = 850, 96, 2, 6, 80, 16


class Layer(nn.Module):
    """All experts at once; only the recurrent product is sequential."""

    def __init__(self):
        super().__init__()
        inputs = lambda: nn.Linear(WIDTH, EXPERTS * WIDTH)
        self.router, self.update, self.candidate = nn.Linear(WIDTH, EXPERTS), inputs(), inputs()
        self.recurrent = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) * 0.05)
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x, h):  # x [T, B, D], h [E, B, H]
        steps, batch, _ = x.shape
        by_expert = lambda y: y.view(steps, batch, EXPERTS, WIDTH).transpose(1, 2)  # [T, E, B, H]
        gate = self.router(x).softmax(-1)
        z, a = by_expert(torch.sigmoid(self.update(x))), by_expert(self.candidate(x))
        transposed, states = self.recurrent.transpose(1, 2), []
        for t in range(steps):
            h = h + z[t] * (F.gelu(torch.baddbmm(a[t], h, transposed)) - h)
            states.append(h)
        y = torch.einsum("tbe,tebh->tbh", gate, torch.stack(states)) + x
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gain, h


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens, states=None):
        x, after = self.embedding(tokens), []
        for i, layer in enumerate(self.layers):
            h = states[i] if states else x.new_zeros(EXPERTS, x.shape[1], WIDTH)
            x, h = layer(x, h)
            after.append(h)
        return self.head(x), after


def decode(model, tokens):
    warm_up, token, states = 20, torch.zeros(1, 1, dtype=torch.long), None
    with torch.inference_mode():
        for i in range(tokens + warm_up):
            if i == warm_up:
                start = time.perf_counter()
            logits, states = model(token, states)
            token = logits[-1].softmax(-1).multinomial(1)
    print(f"decode_tok_s {tokens / (time.perf_counter() - start):.1f}")


def train(model, compiled, steps=20):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, foreach=True)
    run = torch.compile(model) if compiled else model
    data, times = torch.randint(0, VOCABULARY, (STEPS + 1, BATCH)), []
    for _ in range(steps + 3):
        start = time.perf_counter()
        logits, _ = run(data[:-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), data[1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        loss.item()
        times.append(time.perf_counter() - start)
    median = statistics.median(times[3:])
    print(f"train_tok_s {STEPS * BATCH / median:.1f} step_ms {median * 1e3:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decode", type=int, default=0, metavar="TOKENS")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = Model()
    decode(model, options.decode) if options.decode else train(model, options.compile)


main()
