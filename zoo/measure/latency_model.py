"""From a few measured models to the latency of all: the rates of a machine, and what it does in a way that no rates tell.

t(m) is the sum of what a model's kinds of work take at the machine's own rates, a factor on those of a nominal machine for each kind,
found by Gauss-Newton steps that outliers pull little, from what other devices have in the mean. Around the fitted factors g log t is
linear in the shares of the kinds, so that

    log t(m, d) = log sum_k nominal_k(m) g_k(d) + shares(m, d) (log f(d) - log g(d)) + shared(m) + own(m, d) + noise

is a Gaussian process: the rates are as uncertain as the measured models leave them, `shared` is what every machine makes of a model,
told by the rows of other devices too, and `own` how device d departs from that. Both are smooth in the shares, with a term for each
family, its form and each model. So each prediction knows how far it can be trusted (Rasmussen and Williams, Gaussian Processes for
Machine Learning, ch. 2).
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
    smooth: float
    family: float
    family_form: float
    name: float
    subject: float


SHARED = Spread(constant=0.05, smooth=0.30, family=0.09, family_form=0.03, name=0.04, subject=0.035)
OWN = Spread(constant=1.0, smooth=0.15, family=0.08, family_form=0.03, name=0.04, subject=0.03)
"""Rounded from a coarse search for the likelihood of rows of an EPYC and a Xeon; families and models may differ more between makers."""
RATES = 0.75
"""Of the logarithm of a kind's rate on one machine, against the nominal one."""
REACH = 0.3
"""Distance in shares of work within which models resemble each other."""
SIZE = 8.0
"""How many times as much work, in logarithms, counts as far as one share of all work."""
DOUBTS = (1.0, 2.0, 4.0, 8.0)
"""Factors of all noise, of which the likeliest counts: a busy machine is noisier than its samples say."""
STEPS, USUAL = 40, 0.12
"""Gauss-Newton steps; the standard deviation of log ms from the sum of rates, of which half as much again is an outlier."""


class Law:
    """What is known of a device from measurements on it and on others."""

    def __init__(self, seen: Sequence[Seen], device: str):
        import numpy as np

        self.device, self.seen = device, list(seen)
        self.subjects = [sample.subject for sample in seen]
        self.devices = [sample.device for sample in seen]
        log_ms = np.log([sample.ms for sample in seen])
        work = _work(self.subjects)
        others = [one for one in dict.fromkeys(self.devices) if one != device]
        self._rates: dict[str, _Rates] = {}
        shares, nominal = np.zeros_like(work), np.zeros(len(seen))
        for one in (*others, device):
            rows = np.array([other == one for other in self.devices], dtype=bool)
            expected = [self._rates[other].fitted for other in others] if one == device else []
            self._rates[one] = _Rates.of(work[rows], log_ms[rows], np.mean(expected or [np.zeros(KINDS)], axis=0))
            shares[rows], nominal[rows] = _linear(work[rows], self._rates[one].fitted)
        self._points = _Points(self.subjects, self.devices, shares, nominal)
        here = np.array([sample.device == device for sample in seen], dtype=bool)
        noise = np.array([sample.noise for sample in seen])
        covariance = _covariance(self._points, self._points)
        fits = [
            _Fit.of(covariance, log_ms - self._points.means(self._rates), noise * np.where(here, doubt, 1.0))
            for doubt in DOUBTS
        ]
        self.doubt, self._fit = max(zip(DOUBTS, fits, strict=True), key=lambda pair: pair[1].likelihood)

    def left_out(self, group: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What was seen at these indices, predicted from all else: errors of log ms, and the deviations expected of them.

        With P = K^-1 they are P_gg^-1 (P rest)_g, of covariance P_gg^-1 (the same book, eq. 5.10 to 5.12, for groups). The rates are
        expanded around those that all fit, so that this is exact to first order.
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

        shares, nominal = _linear(_work(subjects), self._rates[self.device].fitted)
        points = _Points(subjects, [self.device] * len(subjects), shares, nominal)
        cross = _covariance(points, self._points)
        halves = np.linalg.solve(self._fit.root, cross.T)
        means = points.means(self._rates) + cross @ self._fit.weights
        return means, _covariance(points, points) - halves.T @ halves


class _Points(NamedTuple):
    """Subjects on devices: the shares of their kinds of work at the fitted rates, and log ms by these rates."""

    subjects: Sequence[Subject]
    devices: Sequence[str]
    shares: np.ndarray
    log_ms: np.ndarray

    def means(self, rates: dict[str, _Rates]) -> np.ndarray:
        """Of log ms before anything was seen: at the expected rates, expanded around the fitted ones."""
        import numpy as np

        steps = np.array([rates[device].fitted - rates[device].expected for device in self.devices])
        return self.log_ms - (self.shares * steps.reshape(len(self.devices), KINDS)).sum(1)  # type: ignore[no-any-return]

    def places(self) -> np.ndarray:
        """Where they stand among models: by their shares, and by how much work they are."""
        import numpy as np

        return np.hstack([self.shares, (self.log_ms[:, None] - 3) / SIZE])


def _work(subjects: Sequence[Subject]) -> np.ndarray:
    """(subjects, kinds): milliseconds of each kind on the nominal machine."""
    import numpy as np

    return np.array([nominal_ms(subject.load) for subject in subjects]).reshape(len(subjects), KINDS)


def _linear(work: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares of the kinds in all time, and log ms, where each kind takes exp(factor) times as long as on the nominal machine."""
    import numpy as np

    parts = work * np.exp(factors)
    total = parts.sum(1, keepdims=True)
    return parts / total, np.log(total[:, 0])


class _Rates(NamedTuple):
    """Logarithms of what kinds of work take on a device, against the nominal machine: as other devices let expect, and as fitted."""

    expected: np.ndarray
    fitted: np.ndarray

    @staticmethod
    def of(work: np.ndarray, log_ms: np.ndarray, expected: np.ndarray) -> _Rates:
        """The likeliest. A residual far off counts by its size, and not by its square (Huber); the device may be faster or slower in
        all by `OWN.constant`, and in each kind by `RATES`."""
        import numpy as np

        doubt = np.linalg.inv(RATES**2 * np.eye(KINDS) + OWN.constant**2)
        fitted = expected.copy()
        for _ in range(STEPS):
            shares, log_sum = _linear(work, fitted)
            rest = log_ms - log_sum
            weights = 1 / np.maximum(1, np.abs(rest) / (1.5 * USUAL))
            curvature = (shares * weights[:, None]).T @ shares / USUAL**2 + doubt
            slope = (shares * weights[:, None]).T @ rest / USUAL**2 - doubt @ (fitted - expected)
            step = np.clip(np.linalg.solve(curvature, slope), -0.5, 0.5)
            fitted += step
            if np.abs(step).max() < 1e-6:
                break
        return _Rates(expected, fitted)


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


def _covariance(some: _Points, others: _Points) -> np.ndarray:
    import numpy as np

    x, y = some.places(), others.places()
    apart = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    near = np.exp(-np.maximum(apart, 0) / (2 * REACH**2))
    same = [
        _same([place(one) for one in some.subjects], [place(one) for one in others.subjects])
        for place in (
            lambda subject: subject.family,
            lambda subject: (subject.family, subject.form),
            lambda subject: subject.name,
            lambda subject: (subject.digest, subject.form),
        )
    ]

    def process(spread: Spread) -> np.ndarray:
        terms = zip(spread[2:], same, strict=True)
        return spread.constant**2 + spread.smooth**2 * near + sum(size**2 * term for size, term in terms)  # type: ignore[no-any-return]

    own = process(OWN) + RATES**2 * some.shares @ others.shares.T
    return process(SHARED) + own * _same(some.devices, others.devices)


def _same(some: Sequence[object], others: Sequence[object]) -> np.ndarray:
    """1 where the two are equal."""
    import numpy as np

    numbers = {place: i for i, place in enumerate(dict.fromkeys([*some, *others]))}
    left, right = (np.array([numbers[place] for place in places], dtype=int) for places in (some, others))
    return (left[:, None] == right[None]).astype(float)
