#!/usr/bin/env python3
"""Writes the conversations Shoestring is trained on: python3 data/make_corpus.py > data/conversations.txt

Needs only the standard library. The seed is fixed and no set or dictionary order matters, so every run
writes the same bytes. `--stats` prints counts instead of the corpus. A corpus that breaks a rule of `check`
is not written: the program says what is wrong and exits with 1.

The words are in data/sources/:

tables*.txt     Lists of names and facts: a line `:: columns`, then one row a line, columns separated by
                " | ". `:: ! name` marks a value that the rest of the conversation remembers.

dialogues.txt   Whole conversations: `> ` a user's turn (alternatives separated by " | "), `< ` the reply.

other files     Exchanges, the nodes of a graph that a conversation walks through:

    == name weight flags      begins an exchange; the weight is how often it is wanted
    > Hello! | hi             what a user may type
    < Hi there! => mood/*     a reply, and where the user's next turn may come from; several are alternatives
    => a, b                   links of the replies that have none of their own
    =>? a, b                  the same, but followed less often

    open     only begins a conversation           repeat   may occur again in one conversation
    close    only ends a conversation             fresh    draws new values after a link
    follow   is only reached through a link       common   is wanted at least COMMON_USES times
    each     draws the rows of its table evenly, each at least FACT_USES times; the weight does not count
    needs:x, lacks:x   the remembered value x must be known, must be unknown

{column} is replaced from the tables; all columns of a table come from one row. {x:cap} starts with a capital,
{x:a} and {x:A} put "a" or "an" before it.
"""

import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SEED = 20240229
SOURCES = Path(__file__).resolve().parent / "sources"
# Every weight in the sources is multiplied by this; it sets the size of the corpus.
SCALE = 0.15
# An exchange marked `common`, likely in a first chat, is wanted at least this often; README.md says how often each came out.
COMMON_USES = 22
# A fact seen seldom is learned wrong, so every row of a table of facts is asked at least this often.
FACT_USES = 15
# An exchange that only links lead to is used at least this often.
LEAST_USES = 3
DIALOGUE_USES = 1
SINGLE_SHARE, SINGLE_WITHOUT_QUESTION = 0.6, 0.8
# Number of exchanges of the other conversations, and how often each is wanted. A conversation that has
# reached its length goes on while the last reply asks something, up to the greatest length.
LENGTHS = {2: 34, 3: 32, 4: 18, 5: 9, 6: 4, 8: 1}
FOLLOW_LINK, FOLLOW_WEAK_LINK, LEAVE_QUESTION_OPEN = 0.93, 0.4, 0.15
BEGIN_WITH_GREETING, END_WITH_GOODBYE = 0.14, 0.1
# How often a user asks for a remembered value when there is one.
RECALL = 0.5
# After one of these a user often goes on with another of the same kind.
STICKY_TOPICS, STAY_ON_TOPIC = ("about", "ask", "fact", "food", "sum"), 0.7
# Shares of the user's turns that are spelled as written, and in lower case without punctuation; the others
# lack one of the two.
NEAT, HURRIED = 0.45, 0.45
SIZE_LIMITS = (450_000, 700_000)
LINE = re.compile(r"\[(USER|BOT)\] [!-~]+(?: [!-~]+)* \[EOS\]")


@dataclass
class Reply:
    text: str
    links: list
    weak: bool


@dataclass
class Exchange:
    name: str
    weight: int
    flags: frozenset
    phrasings: list = field(default_factory=list)
    replies: list = field(default_factory=list)

    def condition(self, kind):
        """The remembered value the exchange `needs` or `lacks`, if any."""
        return next((flag.split(":")[1] for flag in self.flags if flag.startswith(kind + ":")), None)


class Deck:
    """Deals its cards in random order and starts again only when all have been dealt."""

    def __init__(self, cards, rng):
        self.cards, self.rng, self.left = list(cards), rng, []

    def draw(self):
        if not self.left:
            self.left = self.rng.sample(self.cards, len(self.cards))
        return self.left.pop()


def source_lines(path):
    lines = path.read_text(encoding="ascii").splitlines()
    return [line.rstrip() for line in lines if not line.startswith("#")]


def parse_links(text):
    return [name.strip() for name in text.split(",")]


def read_exchanges(path):
    exchanges, default = [], {}
    for line in filter(None, source_lines(path)):
        kind, _, rest = line.partition(" ")
        if kind == "==":
            name, weight, *flags = rest.split()
            exchanges.append(Exchange(name, int(weight), frozenset(flags)))
        elif kind == ">":
            exchanges[-1].phrasings += rest.split(" | ")
        elif kind == "<":
            text, _, links = rest.partition(" => ")
            exchanges[-1].replies.append(Reply(text, parse_links(links) if links else [], False))
        elif kind in ("=>", "=>?"):
            default[exchanges[-1].name] = (parse_links(rest), kind == "=>?")
        else:
            raise ValueError(f"{path.name}: not understood: {line}")
    for exchange in exchanges:
        for reply in exchange.replies:
            if not reply.links and exchange.name in default:
                reply.links, reply.weak = default[exchange.name]
    return exchanges


def read_dialogues(path):
    blocks = "\n".join(source_lines(path)).strip().split("\n\n")
    return [[line[2:] for line in block.strip().splitlines()] for block in blocks]


def read_tables(path):
    """All tables as (columns, remembered, rows)."""
    tables = []
    for line in filter(None, source_lines(path)):
        if line.startswith(":: "):
            remembered = line.startswith(":: ! ")
            tables.append((line.removeprefix(":: ").removeprefix("! ").split(" | "), remembered, []))
        else:
            tables[-1][2].append(line.split(" | "))
    for columns, _, rows in tables:
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{path.name}: {row} does not fit {columns}")
    return tables


def computed_tables():
    """Sums of the numbers 1 to 5, the next day, and numbers too big for Shoestring."""
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    plus = [[str(a), str(b), str(a + b)] for a in range(1, 6) for b in range(1, 6)]
    minus = [[str(a), str(b), str(a - b)] for a in range(2, 6) for b in range(1, a)]
    big = [[str(number), str(number * 7 % 89 + 11)] for number in range(6, 100)]
    return [
        (["a", "b", "sum"], False, plus),
        (["c", "d", "difference"], False, minus),
        (["weekday", "nextday"], False, [[days[i], days[(i + 1) % 7]] for i in range(7)]),
        (["big", "large"], False, big),
    ]


def with_article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capitalised(text):
    return text[:1].upper() + text[1:]


FILTERS = {"": str, "cap": capitalised, "a": with_article, "A": lambda noun: capitalised(with_article(noun))}


class Vocabulary:
    """Fills {slots} from the tables."""

    SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")

    def __init__(self, tables, rng):
        self.columns, self.remembered = {}, set()
        for columns, remembered, rows in tables:
            deck = Deck(rows, rng)
            for column in columns:
                if column in self.columns:
                    raise ValueError(f"column {column} is in two tables")
                self.columns[column] = (columns, deck)
            self.remembered |= set(columns if remembered else [])

    def table_of(self, template):
        """The columns and the rows of the table that the first slot of `template` belongs to."""
        columns, deck = self.columns[self.SLOT.search(template)[1]]
        return columns, deck.cards

    def fill(self, template, values):
        """`template` with its slots replaced; `values` gains what had to be drawn."""
        text = template
        while slot := self.SLOT.search(text):
            column, kind = slot[1], slot[2] or ""
            if column not in values:
                columns, deck = self.columns[column]
                values.update(zip(columns, deck.draw()))
            text = text[: slot.start()] + FILTERS[kind](values[column]) + text[slot.end() :]
        return capitalised(text) if template.startswith("{") else text


CONTRACTIONS = [
    (re.compile(r"\b(W|w)hat is\b"), r"\1hat's"),
    (re.compile(r"\b(I|i) am\b"), r"\1'm"),
    (re.compile(r"\b(D|d)o not\b"), r"\1on't"),
    (re.compile(r"\b(W|w)ho is\b"), r"\1ho's"),
]


def typed(text, rng):
    """`text` as written, as a hurried user types it (lower case, no punctuation), or something in between."""
    if rng.random() < 0.15:
        for pattern, short in CONTRACTIONS:
            text = pattern.sub(short, text)
    if rng.random() < 0.3:
        text = text.replace("colour", "color").replace("avourite", "avorite")
    style = rng.random()
    if style < NEAT:
        return text
    if style < NEAT + HURRIED or rng.random() < 0.5:
        text = text.lower()
        if rng.random() < 0.25:
            text = text.replace("'", "")
        if rng.random() < 0.5:
            text = text.replace(",", "")
        if style >= NEAT + HURRIED:
            return text
    if re.search(r"\w", text):
        return text.rstrip(".?!") or text
    return text


def asks(reply):
    """Whether the reply wants an answer."""
    return bool(reply.links) and not reply.weak


class Generator:
    def __init__(self, rng, exchanges, vocabulary):
        self.rng, self.vocabulary = rng, vocabulary
        self.exchanges = {exchange.name: exchange for exchange in exchanges}
        if len(self.exchanges) != len(exchanges):
            raise ValueError("two exchanges have the same name")
        self.phrasings = {e.name: Deck(e.phrasings, rng) for e in exchanges}
        self.replies = {e.name: Deck(e.replies, rng) for e in exchanges}
        # The columns and rows of the facts an exchange states, and how often each row was asked.
        self.facts = {e.name: vocabulary.table_of(e.phrasings[0]) for e in exchanges if "each" in e.flags}
        self.fact_uses = {name: Counter() for name in self.facts}
        self.wanted = {e.name: self.first_wanted(e) for e in exchanges}
        self.uses = Counter()
        # For every exchange, the exchanges and the replies of theirs that link to it.
        self.leads = {e.name: [] for e in exchanges}
        for exchange in exchanges:
            for reply in exchange.replies:
                for target in self.linked(reply.links):
                    self.leads[target.name].append((exchange, reply))

    def first_wanted(self, exchange):
        if exchange.name in self.facts:
            return FACT_USES * len(self.facts[exchange.name][1])
        return max(exchange.weight * SCALE, COMMON_USES * ("common" in exchange.flags))

    def linked(self, links):
        """The exchanges that `links` name; a name may end in `*`."""
        found = []
        for link in links:
            prefix = link.removesuffix("*")
            names = [n for n in self.exchanges if n == link or (prefix != link and n.startswith(prefix))]
            if not names:
                raise ValueError(f"a link to {link} leads nowhere")
            found += [self.exchanges[name] for name in names]
        return found

    def allowed(self, exchange, memory, used):
        needs, lacks = exchange.condition("needs"), exchange.condition("lacks")
        return (
            (needs is None or needs in memory)
            and (lacks is None or lacks not in memory)
            and (exchange.name not in used or "repeat" in exchange.flags)
        )

    def choose(self, candidates, memory, used, floor):
        """One of the candidates, by how much it is still wanted but at least `floor` of its weight."""
        candidates = [e for e in candidates if self.allowed(e, memory, used)]
        weights = [max(self.wanted[e.name], e.weight * floor) for e in candidates]
        return self.rng.choices(candidates, weights)[0] if sum(weights) > 0 else None

    def free(self, *kinds):
        """The exchanges that need no link; those flagged open or close only if `kinds` says so."""
        barred = {"open", "close", "follow"} - set(kinds)
        return [e for e in self.exchanges.values() if not e.flags & barred]

    def next_exchange(self, last, reply, memory, used):
        """The next exchange and whether it was reached through a link."""
        if reply.links:
            if self.rng.random() < (FOLLOW_WEAK_LINK if reply.weak else FOLLOW_LINK):
                linked = self.choose(self.linked(reply.links), memory, used, floor=0.2)
                if linked is not None:
                    return linked, True
        candidates = self.free()
        topic = last.name.split("/")[0]
        if topic in STICKY_TOPICS and self.rng.random() < STAY_ON_TOPIC:
            same = [e for e in candidates if e.name.startswith(topic + "/")]
            if chosen := self.choose(same, memory, used, floor=0):
                return chosen, False
        return self.choose(candidates, memory, used, floor=0.02), False

    def first_exchange(self, length):
        if length > 1 and self.rng.random() < BEGIN_WITH_GREETING:
            greetings = [e for e in self.free("open") if "open" in e.flags]
            return self.choose(greetings, {}, set(), floor=0.05)
        candidates = self.free("open", "close") if length == 1 else self.free("open")
        if length == 1 and self.rng.random() < SINGLE_WITHOUT_QUESTION:
            complete = [e for e in candidates if not any(map(asks, e.replies))]
            if chosen := self.choose(complete, {}, set(), floor=0):
                return chosen
        return self.choose(candidates, {}, set(), floor=0)

    def draw_fact(self, exchange, values):
        """Adds to `values` a row asked least often so far, counts it and gives it."""
        columns, rows = self.facts[exchange.name]
        counts = self.fact_uses[exchange.name]
        least = min(counts[tuple(row)] for row in rows)
        row = tuple(self.rng.choice([row for row in rows if counts[tuple(row)] == least]))
        counts[row] += 1
        values.update(zip(columns, row))
        return row

    def say(self, exchange, values, reply):
        """The user's turn, the reply's turn, and the reply: the given one or, without one, any."""
        phrasing, reply = self.phrasings[exchange.name].draw(), reply or self.replies[exchange.name].draw()
        user = typed(self.vocabulary.fill(phrasing, values), self.rng)
        return user, self.vocabulary.fill(reply.text, values), reply

    def route_to(self, exchange):
        """A way to reach `exchange` from one that needs no link: exchanges, and the reply to give in each."""
        route = [(exchange, None)]
        while "follow" in route[0][0].flags:
            passed = [e for e, _ in route]
            leads = [(e, reply) for e, reply in self.leads[route[0][0].name] if e not in passed]
            direct = [(e, reply) for e, reply in leads if "follow" not in e.flags]
            if not leads:
                raise ValueError(f"nothing leads to {route[0][0].name}")
            route.insert(0, self.rng.choice(direct or leads))
        return route

    def conversation(self, length, route=()):
        """Turns of one conversation, which begins with `route`, the names of its exchanges, and its facts."""
        turns, names, facts, memory, values = [], [], [], {}, {}
        exchange, through_link = route[0][0] if route else self.first_exchange(length), False
        while exchange is not None:
            values = dict(memory) if "fresh" in exchange.flags or not through_link else {**values, **memory}
            if exchange.name in self.facts:
                facts.append((exchange.name, self.draw_fact(exchange, values)))
            prescribed = route[len(names)][1] if len(names) < len(route) else None
            user, bot, reply = self.say(exchange, values, prescribed)
            turns += [user, bot]
            names.append(exchange.name)
            memory = {key: value for key, value in values.items() if key in self.vocabulary.remembered}
            if len(names) < len(route):
                exchange, through_link = route[len(names)][0], True
            else:
                exchange, through_link = self.continued(exchange, reply, memory, names, length)
        return turns, names, facts

    def continued(self, last, reply, memory, names, length):
        """What follows `last` and whether a link led there; (None, False) at the end of the conversation."""
        count, used = len(names), set(names)
        if "close" in last.flags or length == 1 or count == max(LENGTHS):
            return None, False
        if asks(reply):
            at_end = count >= length and self.rng.random() < LEAVE_QUESTION_OPEN
        else:
            if self.rng.random() < RECALL and (recall := self.recalling(self.free(), memory, used)):
                return recall, False
            if count >= max(2, length - 1) and self.rng.random() < END_WITH_GOODBYE:
                closing = [e for e in self.free("close") if "close" in e.flags]
                named = self.recalling(closing, memory, used)
                return named or self.choose(closing, memory, used, floor=0.05), False
            at_end = count >= length
        return (None, False) if at_end else self.next_exchange(last, reply, memory, used)

    def recalling(self, candidates, memory, used):
        """One of the candidates that use a remembered value."""
        return self.choose([e for e in candidates if e.condition("needs")], memory, used, floor=0.2)

    def still_wanted(self):
        """Whether an exchange whose number depends on no link and no memory is not said often enough."""
        free = [e for e in self.free("open", "close") if e.condition("needs") is None]
        return any(self.wanted[e.name] >= 1 for e in free)

    def all_conversations(self):
        """As many as are wanted, then those that lead to exchanges chance has passed over."""
        conversations = {}
        lengths, shares = list(LENGTHS), list(LENGTHS.values())
        while self.still_wanted():
            single = self.rng.random() < SINGLE_SHARE
            self.add(conversations, self.conversation(1 if single else self.rng.choices(lengths, shares)[0]))
        for exchange in self.exchanges.values():
            while "follow" in exchange.flags and self.uses[exchange.name] < LEAST_USES:
                route = self.route_to(exchange)
                self.add(conversations, self.conversation(len(route), route))
        for name in self.facts:
            while self.seldom(name):
                route = [(self.exchanges[name], None)]
                self.add(conversations, self.conversation(self.rng.choice(lengths), route))
        return list(conversations.values())

    def seldom(self, name):
        """The rows of the facts of the exchange `name` that are asked too seldom."""
        return [row for row in self.facts[name][1] if self.fact_uses[name][tuple(row)] < FACT_USES]

    def add(self, conversations, conversation):
        turns, names, facts = conversation
        if tuple(turns) in conversations:
            # Saying it again would teach nothing; counting half of it makes sure that this ends.
            self.wanted[names[0]] -= 0.5
            for name, row in facts:
                self.fact_uses[name][row] -= 1
            return
        conversations[tuple(turns)] = turns
        for name in names:
            self.wanted[name] = max(0.0, self.wanted[name] - 1)
            self.uses[name] += 1


def dialogue_variants(dialogues, rng):
    """Every dialogue in up to DIALOGUE_USES different spellings."""
    variants = {}
    for dialogue in dialogues:
        for _ in range(DIALOGUE_USES):
            turns = [
                turn if i % 2 else typed(rng.choice(turn.split(" | ")), rng)
                for i, turn in enumerate(dialogue)
            ]
            variants[tuple(turns)] = turns
    return list(variants.values())


def generate():
    """The conversations, each a list of turns, and the generator with its counts."""
    rng = random.Random(SEED)
    tables, exchanges, dialogues = computed_tables(), [], []
    for path in sorted(SOURCES.glob("*.txt")):
        if path.stem.startswith("tables"):
            tables += read_tables(path)
        elif path.stem == "dialogues":
            dialogues = read_dialogues(path)
        else:
            exchanges += read_exchanges(path)
    generator = Generator(rng, exchanges, Vocabulary(tables, rng))
    conversations = generator.all_conversations() + dialogue_variants(dialogues, rng)
    rng.shuffle(conversations)
    return conversations, generator


def written(conversation):
    turns = (f"[{'BOT' if i % 2 else 'USER'}] {turn} [EOS]\n" for i, turn in enumerate(conversation))
    return "".join(turns)


def check(text):
    """Every rule of the format that `text` breaks."""
    problems = []
    if not text.isascii():
        problems.append("not ASCII")
    if not SIZE_LIMITS[0] <= len(text) <= SIZE_LIMITS[1]:
        problems.append(f"{len(text)} bytes, wanted {SIZE_LIMITS}")
    conversations = text.removesuffix("\n\n").split("\n\n")
    if len(set(conversations)) != len(conversations):
        problems.append("a conversation occurs twice")
    for conversation in conversations:
        lines = conversation.split("\n")
        speakers = [line[1:].split("]")[0] for line in lines]
        if speakers != ["USER", "BOT"] * (len(lines) // 2):
            problems.append(f"turns do not alternate: {lines[0]}")
        problems += [f"not a turn: {line}" for line in lines if not LINE.fullmatch(line)]
        problems += [f"a marker inside a turn: {line}" for line in lines if line.count("[") != 2]
        problems += [f"an unfilled slot: {line}" for line in lines if re.search(r"[{}|]|=>", line)]
    return problems


def print_statistics(conversations, generator, text):
    users = [turn for conversation in conversations for turn in conversation[0::2]]
    replies = [turn for conversation in conversations for turn in conversation[1::2]]
    single = sum(len(conversation) == 2 for conversation in conversations)
    print(f"bytes                     {len(text)}")
    print(f"conversations             {len(conversations)}")
    print(f"of one exchange           {single} ({100 * single / len(conversations):.0f} %)")
    print(f"exchanges                 {len(users)}")
    print(f"distinct user turns       {len(set(users))}")
    print(f"distinct replies          {len(set(replies))}")
    print(f"longest reply             {max(map(len, replies))} characters")
    print(f"replies over 120          {100 * sum(len(r) > 120 for r in replies) / len(replies):.1f} %")
    neat = sum(turn[:1].isupper() and turn[-1] in ".?!" for turn in users)
    hurried = sum(turn == turn.lower() and turn[-1].isalnum() and not turn[0].isdigit() for turn in users)
    print(f"neat, hurried user turns  {neat}, {hurried}")
    print("facts: how many, and how often the rarest and all together are asked:")
    for name, (_, rows) in generator.facts.items():
        counts = [generator.fact_uses[name][tuple(row)] for row in rows]
        print(f"  {len(rows):5d}  {min(counts):5d}  {sum(counts):5d}  {name}")
    print("exchanges by use:")
    for name, count in sorted(generator.uses.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {count:5d}  {name}")


def main():
    conversations, generator = generate()
    text = "".join(written(conversation) + "\n" for conversation in conversations)
    if problems := check(text):
        sys.exit("\n".join(problems))
    if "--stats" in sys.argv[1:]:
        print_statistics(conversations, generator, text)
    else:
        sys.stdout.buffer.write(text.encode("ascii"))


if __name__ == "__main__":
    main()
