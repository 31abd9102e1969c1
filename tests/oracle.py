"""The method in the plainest way: loops, lists and exact fractions."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass
class Expected:
    """What a region must hold."""

    neighbors: list[int]
    neurons: list[int]
    states: list[bool]
    scores: list[float]
    members: list[int]


def distances(bank: np.ndarray, query: np.ndarray) -> list[int]:
    """Count the neurons that differ."""
    return [
        sum(bool(a) != bool(b) for a, b in zip(row, query, strict=True)) for row in bank
    ]


def neighbors(
    bank: np.ndarray, query: np.ndarray, own: int | None, k: int
) -> list[int]:
    """Take the query and its k - 1 nearest others, ties to the lower index."""
    away = distances(bank, query)
    if own is None and 0 in away:
        own = away.index(0)
    others = sorted((d, i) for i, d in enumerate(away) if i != own)
    rows = [i for _, i in others[: k - 1]]
    return rows if own is None else [own, *rows]


def frequencies(
    inside: np.ndarray, bank: np.ndarray
) -> list[tuple[Fraction, Fraction]]:
    """How often each neuron is active in S and in the bank."""
    return [
        (Fraction(int(s.sum()), len(s)), Fraction(int(b.sum()), len(b)))
        for s, b in zip(inside.T, bank.T, strict=True)
    ]


def paper(
    bank: np.ndarray, query: np.ndarray, own: int | None, k: int, t: int, tolerance: int
) -> Expected:
    """Follow the paper's rule."""
    rows = neighbors(bank, query, own, k)
    inside = np.array([bank[i] for i in rows] + ([query] if len(rows) < k else []))
    scored = [
        (-abs(p_s - p), i, p_s == 1)
        for i, (p_s, p) in enumerate(frequencies(inside, bank))
        if p_s in (0, 1)
    ]
    chosen = sorted(sorted(scored)[:t], key=lambda item: item[1])
    members = [
        j
        for j, row in enumerate(bank)
        if sum(bool(row[i]) != state for _, i, state in chosen) <= tolerance
    ]
    return Expected(
        rows,
        [i for _, i, _ in chosen],
        [state for _, _, state in chosen],
        [float(-s) for s, _, _ in chosen],
        members,
    )


def weights(inside: np.ndarray, bank: np.ndarray) -> list[tuple[float, float]]:
    """Give log-odds weight (in 64ths) and offset of each neuron, as the design has them."""
    return [(round(64 * w) / 64, offset) for w, offset in raw_weights(inside, bank)]


def evidence(
    bank: np.ndarray, query: np.ndarray, rows: list[int], with_query: bool, t: int
) -> tuple[list[int], list[float], float]:
    """Give the heaviest neurons, the evidence of every row and that of the query."""
    inside = np.array([bank[i] for i in rows] + ([query] if with_query else []))
    common = common_weight(inside, bank)
    weighed = [
        (w - common, offset + common * float(column.mean())) if w else (0.0, 0.0)
        for (w, offset), column in zip(weights(inside, bank), bank.T, strict=True)
    ]
    order = sorted(
        (i for i, (w, _) in enumerate(weighed) if w != 0),
        key=lambda i: (-abs(weighed[i][0]), i),
    )
    chosen = order[:t]
    constant = round(64 * math.fsum(weighed[i][1] for i in chosen)) / 64

    def total(states: np.ndarray) -> float:
        return constant + math.fsum(weighed[i][0] for i in chosen if states[i])

    return chosen, [total(row) for row in bank], total(query)


def common_weight(inside: np.ndarray, bank: np.ndarray) -> float:
    """Give what of the mean weight is due to neurons that are active together."""
    k = len(inside)
    weighty = [w for w, _ in weights(inside, bank) if w]
    if k < 2 or not weighty:
        return 0.0
    shares = [Fraction(int(column.sum()), k) for column in inside.T]
    alone = float(sum(p * (1 - p) for p in shares)) * k / (k - 1)
    totals = [int(states.sum()) for states in inside]
    mean = sum(totals) / k
    spread = sum((total - mean) ** 2 for total in totals) / (k - 1)
    if spread <= alone:
        return 0.0
    return round(64 * sum(weighty) / len(weighty) * (1 - (alone / spread) ** 0.5)) / 64


def evidence_cut(
    bank: np.ndarray, inside: np.ndarray, chosen: list[int], by_own: list[float]
) -> float:
    """Give the least evidence of a member: the lower quartile of S, left out in turn."""
    if len(inside) == 1:
        return min(by_own)
    left_out = []
    for j, states in enumerate(inside):
        others, rest = np.delete(inside, j, 0), 0.0
        common = common_weight(others, bank)
        for i, (weight, offset) in enumerate(raw_weights(others, bank)):
            if i in chosen:
                rest += offset + (weight if states[i] else 0.0)
                if round(64 * weight):
                    rest += common * (float(bank[:, i].mean()) - float(states[i]))
        left_out.append(rest)
    return min(*by_own, sorted(left_out)[(len(inside) - 1) // 4])


def raw_weights(inside: np.ndarray, bank: np.ndarray) -> list[tuple[float, float]]:
    """Give weights and offsets before they are rounded."""
    k, n = len(inside), len(bank)
    result = []
    for p_s, p in frequencies(inside, bank):
        smoothed = (k * float(p_s) + 0.5) / (k + 1)
        clamped = min(max(float(p), 0.5 / n), 1 - 0.5 / n)
        offset = math.log((1 - smoothed) / (1 - clamped))
        weight = math.log(smoothed / clamped) - offset
        agrees = (weight > 0 and p_s > p) or (weight < 0 and p_s < p)
        result.append((weight, offset) if agrees else (0.0, 0.0))
    return result
