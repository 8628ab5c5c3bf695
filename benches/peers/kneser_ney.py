#!/usr/bin/env python3
"""nats/char of a Kneser-Ney n-gram of characters: what counting alone reaches on a text.

    python3 benches/peers/kneser_ney.py book.txt [--order 6]

Splits the text as `shoestring train` does: the first 90 % of the bytes are counted, the rest is predicted,
character by character, interpolated over all shorter contexts. Discounts are estimated from the counts: one an
order (Kneser and Ney 1995), and three, for counts of one, two and more (Chen and Goodman 1999, "modified
Kneser-Ney"), which predict better.
"""
import argparse
import collections
import math
import pathlib


def split(data):
    """Training and validation characters, cut where `shoestring train` cuts."""
    at = len(data) // 10 * 9 + len(data) % 10 * 9 // 10
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return data[:at].decode(), data[at:].decode()


def discounts(counts, different):
    """What is taken from a count of one, of two, and of three or more."""
    n1, n2, n3, n4 = (sum(count == i for count in counts.values()) for i in range(1, 5))
    if not (n1 and n2 and n3):
        return 0.5, 0.5, 0.5
    y = n1 / (n1 + 2 * n2)
    return (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3) if different else (y, y, y)


class Order:
    """The n-grams of one length: counts, and for each context their total and the mass taken from it."""

    def __init__(self, counts, different):
        self.counts = counts
        self.discounts = discounts(counts, different)
        self.totals = collections.Counter()
        self.freed = collections.Counter()
        for gram, count in counts.items():
            self.totals[gram[:-1]] += count
            self.freed[gram[:-1]] += self.discounts[min(count, 3) - 1]

    def probability(self, gram, lower):
        """Of the n-gram's last character after the ones before, given the next shorter order's answer."""
        context = gram[:-1]
        total = self.totals.get(context, 0)
        if not total:
            return lower
        count = self.counts.get(gram, 0)
        kept = count - self.discounts[min(count, 3) - 1] if count else 0.0
        return (kept + self.freed[context] * lower) / total


def count_orders(text, longest):
    """Counts of the longest n-grams; of the shorter ones, how many different characters come before them."""
    orders = [collections.Counter(text[i : i + longest] for i in range(len(text) - longest + 1))]
    for _ in range(longest - 1):
        orders.append(collections.Counter(gram[1:] for gram in orders[-1]))
    return orders[::-1]


def probability(model, text, at, alphabet):
    """Of the character at `at`, after those before it."""
    p = 1 / alphabet
    for length, order in enumerate(model[: at + 1], 1):
        p = order.probability(text[at + 1 - length : at + 1], p)
    return p


def check(model, training, alphabet):
    """That the probabilities of all characters, and of one that was never seen, sum to one."""
    for start in range(0, len(training) - len(model), len(training) // 20 + 1):
        context = training[start : start + len(model) - 1]
        total = sum(probability(model, context + c, len(context), alphabet) for c in {*training, "\0"})
        assert abs(total - 1) < 1e-9, f"probabilities after {context!r} sum to {total}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--order", type=int, default=6, help="characters of the longest n-gram")
    arguments = parser.parse_args()
    training, validation = split(arguments.text.read_bytes())
    # One more than were seen, so that a character that was not has a probability too.
    alphabet = len(set(training)) + 1
    counts = count_orders(training, arguments.order)
    for name, different in [("one discount", False), ("three discounts", True)]:
        model = [Order(of_one, different) for of_one in counts]
        check(model, training, alphabet)
        nats = -sum(math.log(probability(model, validation, at, alphabet)) for at in range(len(validation)))
        print(f"{name} an order: {nats / len(validation):.4f} nats/char")


main()
