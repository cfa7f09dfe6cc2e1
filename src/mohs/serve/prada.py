"""PRADA: the distances between an honest client's queries are close to normal; an extraction's are not."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np


class Prada:
    """The queries of one client. D holds, for every query, its least L2 distance to the growing set G_c of its class c.

    A query joins G_c where its distance exceeds T_c = max(T_c, mean(D_Gc) - std(D_Gc)), D_Gc the distances of those
    that joined. What lies within three standard deviations of the mean of D is put to the Shapiro-Wilk test: an attack
    where W < delta. The first query of a class joins at the distance 0, which is in D_Gc and not in D.
    Juuti, Szyller, Marchal, Asokan, EuroS&P 2019, arXiv:1805.02628: delta 0.95 for MNIST, tested once more than 100
    distances are known. As in the authors' code, the test is made every 10th query and a class counts from
    10 distances on.

    The paper keeps everything. Here G_c holds `growing` queries, the oldest forgotten, and D the 5000 latest distances,
    beyond which scipy does not vouch for the test. Distances that are all the same count as W = 0.
    """

    LEAST, LEAST_OF_CLASS, EVERY, MOST = 100, 10, 10, 5000

    def __init__(self, *, delta: float = 0.95, growing: int = 500) -> None:
        self.delta, self.growing = delta, growing
        self.statistic = 1.0  # W of the last test
        self._queries = 0
        self._sets: dict[int, GrowingSet] = {}
        self._found: deque[tuple[int, float]] = deque(maxlen=self.MOST)  # D, with the class of each distance

    @property
    def bytes(self) -> int:
        """Of the queries kept."""
        return sum(kept.queries.nbytes for kept in self._sets.values())

    def __call__(self, x: np.ndarray, label: int) -> bool:
        """Whether the client's queries, with this one [*input] that the model gave `label`, are an attack."""
        x = x.reshape(-1).astype(np.float32)
        if label not in self._sets:
            self._sets[label] = GrowingSet(x, self.growing)
        else:
            self._found.append((label, self._sets[label].add(x)))
        self._queries += 1
        if self._queries % self.EVERY == 0:
            self._test()
        return self.statistic < self.delta

    def _test(self) -> None:
        from scipy.stats import shapiro

        counts = Counter(label for label, _ in self._found)
        d = np.array([value for label, value in self._found if counts[label] >= self.LEAST_OF_CLASS])
        if len(d) > self.LEAST and d.std() > 0:
            d = d[abs(d - d.mean()) < 3 * d.std()]
        if len(d) > self.LEAST:
            self.statistic = float(shapiro(d).statistic) if np.ptp(d) > 0 else 0.0


class GrowingSet:
    """G_c and D_Gc of one class, from its first query [d]."""

    def __init__(self, first: np.ndarray, most: int) -> None:
        self.most, self.joined, self.threshold = most, 0, 0.0
        self.queries = np.empty((0, len(first)), np.float32)
        self.distances = np.empty(0)
        self._join(first, 0.0)

    def add(self, x: np.ndarray) -> float:
        """The distance of a query [d] to the set, which it joins if that is far."""
        distance = float(np.square(self.queries[: self.joined] - x).sum(1, dtype=np.float64).min() ** 0.5)
        if distance > self.threshold:
            self._join(x, distance)
            d = self.distances[: self.joined]
            self.threshold = max(self.threshold, float(d.mean() - d.std()))
        return distance

    def _join(self, x: np.ndarray, distance: float) -> None:
        place = self.joined % self.most
        if place == len(self.queries):
            rows = min(self.most, max(8, 2 * place))
            self.queries.resize((rows, len(x)))
            self.distances.resize(rows)
        self.queries[place], self.distances[place] = x, distance
        self.joined += 1
