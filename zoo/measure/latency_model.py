"""From a few measured models to the latency of all: what machines have in common, and what one machine does in its own way.

log t(m, d) = log nominal(m) + shared(m) + own(m, d) + noise. `nominal` adds up a model's work at the rates of a nominal machine;
`shared` is what every machine makes of it, told by the rows of other devices; `own` is how device d departs from that. Both are Gaussian
processes: linear in the shares of a model's kinds of work, smooth beyond that, with a term for each family, its form and each model. So
every measured model says much of its relatives, something of models that do the same kind of work, and a little of all; and each
prediction knows how far it can be trusted (Rasmussen and Williams, Gaussian Processes for Machine Learning, ch. 2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from zoo.measure.load import KINDS, Load, nominal_ms

if TYPE_CHECKING:
    import numpy as np  # only what fits or predicts loads it


class Subject(NamedTuple):
    """A model in one form; `digest` tells variants of one name apart."""

    digest: str
    name: str
    family: str
    form: str
    load: Load


class Seen(NamedTuple):
    """A subject as it was timed on a device; `noise` is the standard deviation of log ms."""

    subject: Subject
    device: str
    ms: float
    noise: float


class Spread(NamedTuple):
    """Standard deviations, in log ms, of the terms of a process."""

    constant: float
    kinds: float
    smooth: float
    family: float
    family_form: float
    name: float
    subject: float


SHARED = Spread(constant=0.5, kinds=0.35, smooth=0.22, family=0.13, family_form=0.05, name=0.05, subject=0.035)
OWN = Spread(constant=1.0, kinds=0.40, smooth=0.08, family=0.05, family_form=0.04, name=0.02, subject=0.02)
"""Chosen by the likelihood of rows at one and at two threads; kinds of work, families and models may differ more between makers of processors."""
REACH = 0.45
"""Distance in shares of work within which models resemble each other."""
DOUBTS = (1.0, 2.0, 4.0, 8.0)
"""Factors of all noise, of which the likeliest counts: a busy machine is noisier than its samples say."""


class Law:
    """What is known of a device from measurements on it and on others."""

    def __init__(self, seen: Sequence[Seen], device: str):
        import numpy as np

        self.device, self.seen = device, list(seen)
        self.subjects = [sample.subject for sample in seen]
        self.devices = [sample.device for sample in seen]
        rest = np.log([sample.ms for sample in seen]) - np.log(
            [sum(nominal_ms(sample.load)) for sample in self.subjects]
        )
        shared = _covariance(self.subjects, self.subjects, SHARED) + _covariance(
            self.subjects, self.subjects, OWN
        ) * _same(self.devices, self.devices)
        here = np.array([sample.device == device for sample in seen], dtype=bool)
        noise = np.array([sample.noise for sample in seen])
        fits = [_Fit.of(shared, rest, noise * np.where(here, doubt, 1.0)) for doubt in DOUBTS]
        self.doubt, self._fit = max(zip(DOUBTS, fits, strict=True), key=lambda pair: pair[1].likelihood)

    def left_out(self, group: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What was seen at these indices, predicted from all else: errors of log ms, and the deviations expected of them.

        With P = K^-1 they are P_gg^-1 (P rest)_g, of covariance P_gg^-1 (the same book, eq. 5.10 to 5.12, for groups).
        """
        import numpy as np

        precision = self._precision
        covariance = np.linalg.inv(precision[np.ix_(group, group)])
        return covariance @ self._fit.weights[list(group)], np.sqrt(np.diag(covariance))

    @functools.cached_property
    def _precision(self) -> np.ndarray:
        import numpy as np

        half = np.linalg.inv(self._fit.root)
        return half.T @ half

    def predict(self, subjects: Sequence[Subject]) -> tuple[np.ndarray, np.ndarray]:
        """Means of log ms on the device, and their covariance."""
        import numpy as np

        cross = _covariance(subjects, self.subjects, SHARED) + _covariance(subjects, self.subjects, OWN) * _same(
            [self.device], self.devices
        )
        nominal = np.log([sum(nominal_ms(subject.load)) for subject in subjects])
        halves = np.linalg.solve(self._fit.root, cross.T)
        prior = _covariance(subjects, subjects, SHARED) + _covariance(subjects, subjects, OWN)
        return nominal + cross @ self._fit.weights, prior - halves.T @ halves


def deviations(covariance: np.ndarray) -> list[float]:
    """Standard deviations; rounding may leave a variance below zero."""
    return [max(float(variance), 0.0) ** 0.5 for variance in covariance.diagonal()]


class _Fit(NamedTuple):
    """The Cholesky root of the covariance K of what was seen, K^-1 (log ms - log nominal), and the log likelihood."""

    root: np.ndarray
    weights: np.ndarray
    likelihood: float

    @staticmethod
    def of(covariance: np.ndarray, rest: np.ndarray, noise: np.ndarray) -> _Fit:
        import numpy as np

        root = np.linalg.cholesky(covariance + np.diag(noise**2))
        half = np.linalg.solve(root, rest)
        return _Fit(root, np.linalg.solve(root.T, half), float(-half @ half / 2 - np.log(np.diag(root)).sum()))


def _covariance(some: Sequence[Subject], others: Sequence[Subject], spread: Spread) -> np.ndarray:
    import numpy as np

    x, y = _features(some), _features(others)
    apart = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    terms = [
        spread.constant**2,
        spread.kinds**2 * x @ y.T,
        spread.smooth**2 * np.exp(-np.maximum(apart, 0) / (2 * REACH**2)),
    ]
    places = (
        (spread.family, lambda subject: subject.family),
        (spread.family_form, lambda subject: (subject.family, subject.form)),
        (spread.name, lambda subject: subject.name),
        (spread.subject, lambda subject: (subject.digest, subject.form)),
    )
    for size, place in places:
        terms.append(size**2 * _same([place(subject) for subject in some], [place(subject) for subject in others]))
    return sum(terms)  # type: ignore[return-value]


def _features(subjects: Sequence[Subject]) -> np.ndarray:
    """The shares of each subject: those of its kinds of work, and how much work it is, around the middle of the catalogue."""
    import numpy as np

    times = np.array([nominal_ms(subject.load) for subject in subjects]).reshape(len(subjects), KINDS)
    total = times.sum(1, keepdims=True)
    return np.hstack([times / total, (np.log(total) - 3) / 3])


def _same(some: Sequence[object], others: Sequence[object]) -> np.ndarray:
    """1 where the two are equal."""
    import numpy as np

    numbers = {place: i for i, place in enumerate(dict.fromkeys([*some, *others]))}
    left, right = (np.array([numbers[place] for place in places], dtype=int) for places in (some, others))
    return (left[:, None] == right[None]).astype(float)
