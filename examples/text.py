# %% [markdown]
# # Text: what the class token sees, and what the last token sees
#
# A small transformer learns which part of Python's standard library a sentence of its
# documentation comes from. Two positions of one layer then tell two different things about
# the same sentence: the class token groups sentences by *topic*, the last token by their
# *last word*. Nobody told the network to do either at these positions, and no label is
# used to find it.

# %%
# %pip install --quiet captum-rdr

# %%
import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.pooling import class_token, last_token
from captum_rdr.visualization import Reference, visualize_text_region

# %% [markdown]
# ## The sentences
#
# Python ships its own documentation: every sentence of 4 to 20 words in the docstrings of
# seven parts of the standard library, about 4,000 of them.

# %%
TOPICS = {
    "asyncio": ["asyncio/*.py"],
    "email": ["email/*.py", "mailbox.py", "smtplib.py", "imaplib.py"],
    "files": ["shutil.py", "os.py", "tempfile.py", "tarfile.py", "zipfile*.py"],
    "logging": ["logging/*.py"],
    "numbers": ["_pydecimal.py", "statistics.py", "fractions.py", "random.py"],
    "tests": ["unittest/*.py", "doctest.py"],
    "xml": ["xml/**/*.py"],
}


def sentences(source: str) -> Iterator[str]:
    """Sentences of a module's docstrings, in lower case and without punctuation."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
            for sentence in re.split(r"(?<=\.)\s+", " ".join(paragraph.split())):
                words = re.findall(r"[a-z]+", sentence.lower())
                if 4 <= len(words) <= 20 and sentence.endswith("."):
                    yield " ".join(words)


library = Path(sysconfig.get_path("stdlib"))
found = {
    sentence: topic
    for topic, patterns in enumerate(TOPICS.values())
    for pattern in patterns
    for path in sorted(library.glob(pattern))
    for sentence in sentences(path.read_text("utf-8"))
}
generator = torch.Generator().manual_seed(0)
order = torch.randperm(len(found), generator=generator)
texts = [list(found)[i] for i in order.tolist()]
topics = torch.tensor(list(found.values()))[order]
n_train = len(texts) - 400
print(f"{n_train} sentences to learn from, 400 held out, e.g. {texts[0]!r}")

# %% [markdown]
# Words become numbers. Sentences are padded to one length, and the attention mask tells the
# words from the padding.

# %%
PAD, CLASS, UNKNOWN = range(3)
counts = Counter(word for text in texts[:n_train] for word in text.split())
vocabulary = {word: 3 + i for i, (word, n) in enumerate(counts.items()) if n > 1}
length = 1 + max(len(text.split()) for text in texts)
tokens = torch.full((len(texts), length), PAD)
for row, text in enumerate(texts):
    ids = [CLASS, *(vocabulary.get(word, UNKNOWN) for word in text.split())]
    tokens[row, : len(ids)] = torch.tensor(ids)
attention_mask = tokens != PAD


# %% [markdown]
# ## The network
#
# Two transformer blocks; the topic is read from the class token.


# %%
class Block(nn.Module):
    """Self-attention and a hidden layer, each behind a normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU())
        self.output = nn.Linear(2 * width, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Tokens ``(B, T, E)`` to tokens of the same shape."""
        y = self.before(x)
        x = x + self.attention(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        mixed: Tensor = x + self.output(self.hidden(self.between(x)))
        return mixed


class Transformer(nn.Module):
    """Classifies a sentence by its class token."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.words = nn.Embedding(3 + len(counts), width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.first, self.last = Block(width), Block(width)
        self.topics = nn.Linear(width, len(TOPICS))

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits ``(B, 7)`` of tokens ``(B, T)``."""
        x = self.words(tokens) + self.positions[: tokens.shape[1]]
        x = self.last(self.first(x, ~attention_mask), ~attention_mask)
        logits: Tensor = self.topics(x[:, 0])
        return logits


torch.manual_seed(0)
model = Transformer()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(6):
    for rows in torch.randperm(n_train, generator=generator).split(64):
        loss = F.cross_entropy(model(tokens[rows], attention_mask[rows]), topics[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
held_out = torch.arange(n_train, len(texts))
with torch.no_grad():
    predicted = model(tokens[held_out], attention_mask[held_out]).argmax(1)
accuracy = float((predicted == topics[held_out]).float().mean())
print(f"right about {accuracy:.0%} of the held-out sentences")

# %% [markdown]
# ## Regions at two positions of one layer
#
# The layer is the hidden layer of the last block, `(B, T, 96)` after its ReLU. A pool picks
# the position: `class_token` the first, `last_token` the last that is not padding. The pool's
# parameter `attention_mask` is filled from the model's argument of that name, so sentences of any
# length can be padded to one.
#
# Decoders that pad on the *left* count positions from the first token, padding or not, unless they
# are told: the same sentence then has other states in another batch. Pass `position_ids` with the
# inputs, to `fit` and to `attribute`: `(attention_mask.cumsum(-1) - 1).clamp(min=0)`.


# %%
def inputs(rows: Tensor) -> dict[str, Tensor]:
    """Keyword arguments of the model."""
    return {"tokens": tokens[rows], "attention_mask": attention_mask[rows]}


train = [inputs(rows) for rows in torch.arange(n_train).split(256)]
pools = {"class token": class_token, "last token": last_token}
regions: dict[str, list[Region]] = {}
fitted = {}
for position, pool in pools.items():
    rdr = RelaxedDecisionRegion(model, model.last.hidden, pool=pool)
    fitted[position] = rdr.fit(train, show_progress=False)  # batches, or a DataLoader
    _, regions[position] = rdr.attribute(inputs(held_out), n_neighbors=8, n_neurons=8)

# %% [markdown]
# How often does a member share the topic, and how often the last word?


# %%
def shares(values: list[object], position: str) -> Tensor:
    """For each query, the share of members that have the query's value; 0 for none."""
    found = []
    for row, region in zip(held_out.tolist(), regions[position], strict=True):
        of_members = [values[i] for i in region.members.tolist()]
        found.append(of_members.count(values[row]) / max(1, len(of_members)))
    return torch.tensor(found)


values: dict[str, list[object]] = {
    "topic": list(topics.tolist()),
    "last word": [text.split()[-1] for text in texts],
}
shared = {
    (position, name): shares(values[name], position)
    for position in pools
    for name in values
}

# %% [markdown]
# The held-out sentence where both positions are clearest, and some of its members:

# %%
enough = torch.tensor(
    [
        all(len(regions[position][i].members) >= 10 for position in pools)
        for i in range(len(held_out))
    ]
)
clear = shared["class token", "topic"] * shared["last token", "last word"] * enough
query = int(clear.argmax())
names = list(TOPICS)
print(f"[{names[topics[held_out[query]]]}] {texts[held_out[query]]}")
for position in pools:
    members = regions[position][query].members.tolist()
    print(f"\n{position}: {len(members)} members")
    for row in members[:: len(members) // 5][:5]:
        print(f"    [{names[topics[row]]}] {texts[row]}")
    last_words = Counter(texts[row].split()[-1] for row in members).most_common(4)
    print("    last words:", ", ".join(f"{word} ({n})" for word, n in last_words))

# %% [markdown]
# The same as `visualize_text_region` shows it, for the last token: highlighted are words that
# members use more often than other sentences do.

# %%
reference = Reference(texts[:n_train], topics[:n_train], class_names=names)
visualize_text_region(
    regions["last token"][query],
    fitted["last token"],
    reference,
    (texts[held_out[query]], int(topics[held_out[query]])),
    n_members=6,
)

# %% [markdown]
# ## The finding
#
# Averages over all held-out sentences; `lift` is how many times more often than in a sentence
# drawn at random.

# %%
lift = {}
for (position, name), share in shared.items():
    frequency = Counter(values[name][:n_train])
    chance = sum(frequency[values[name][i]] for i in held_out.tolist()) / n_train / 400
    lift[position, name] = float(share.mean()) / chance
    print(
        f"{position:11} same {name:9} {share.mean():.0%} of members, {chance:.1%} by "
        f"chance, lift {lift[position, name]:.1f}"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(6, 2.2), layout="constrained")
for ax, name in ((left, "topic"), (right, "last word")):
    ax.bar(list(pools), [lift[position, name] for position in pools], width=0.5)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_title(f"members share the {name}", fontsize=9)
_ = left.set_ylabel("times chance")

# %% [markdown]
# So the same layer tells two different things at two positions, and neither was asked for by a
# label: choose the position by the question.

# %%
print(
    f"Finding: members by the class token share the topic "
    f"{lift['class token', 'topic']:.1f} times as often as chance, by the last token the "
    f"last word {lift['last token', 'last word']:.0f} times as often."
)
