"""Every metric of a collapse from its definition: two passes, explicit d × d matrices, loops over classes and pairs."""

import itertools
import math

import numpy as np


def simplex_target(k):
    return (np.eye(k) - 1 / k) / math.sqrt(k - 1)


def class_means(x, y, classes):
    return np.stack([x[y == c].mean(0) for c in classes])


def within(x, y, classes, weights):
    """Pooled covariance: class weights on samples, divided by their sum."""
    d, total = x.shape[1], 0.0
    scatter = np.zeros((d, d))
    for c in classes:
        rows = x[y == c]
        centred = rows - rows.mean(0)
        scatter += weights[c] * centred.T @ centred
        total += weights[c] * len(rows)
    return scatter / total


def covariance_between(means, prior):
    d = means.shape[1]
    overall = sum(p * m for p, m in zip(prior, means, strict=True))
    matrix = np.zeros((d, d))
    for p, m in zip(prior, means, strict=True):
        matrix += p * np.outer(m - overall, m - overall)
    return matrix


def exchange(k, i, j):
    order = list(range(k))
    order[i], order[j] = j, i
    return np.eye(k)[order]


def projected(gram):
    """Average of a Gram over the symmetric group, from its definition if that is small."""
    k = len(gram)
    if k <= 5:
        orders = list(itertools.permutations(range(k)))
        return sum(np.eye(k)[list(o)] @ gram @ np.eye(k)[list(o)].T for o in orders) / len(orders)
    off = ~np.eye(k, dtype=bool)
    return np.where(off, gram[off].mean(), np.diag(gram).mean())


def of_means(means):
    k = len(means)
    centred = means - means.mean(0)
    gram = np.array([[a @ b for b in centred] for a in centred])
    norm = np.linalg.norm(gram)
    lengths = [math.sqrt(a @ a) for a in centred]
    cosines = [centred[i] @ centred[j] / (lengths[i] * lengths[j]) for i in range(k) for j in range(k) if i != j]
    residual = gram - projected(gram)
    pairs = np.zeros((k, k))
    for i, j in itertools.combinations(range(k), 2):
        p = exchange(k, i, j)
        pairs[i, j] = pairs[j, i] = np.linalg.norm(p @ gram @ p.T - gram) / norm
    return {
        "gram": gram,
        "residual": residual / norm,
        "pair_defect": pairs,
        "nc2": np.linalg.norm(gram / norm - simplex_target(k)),
        "equinorm": np.std(lengths) / np.mean(lengths),
        "equiangular": math.sqrt(np.mean([(c + 1 / (k - 1)) ** 2 for c in cosines])),
        "sk_defect": np.linalg.norm(residual) / norm,
    }


def of_logits(z, y, k, weights):
    centred = z - z.mean(1, keepdims=True)
    shifted = z - z.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]
    radius = max(math.sqrt(row @ row) for row in centred)
    share = np.array([weights[c] for c in y])
    inside = sum(((centred[y == c] - centred[y == c].mean(0)) ** 2).sum() for c in set(y.tolist()))
    risk = (share * losses).sum() / share.sum()
    return {
        "radius": radius,
        "risk": risk,
        "ew_gap": risk - math.log1p((k - 1) * math.exp(-radius * math.sqrt(k / (k - 1)))),
        "logit_spread": math.sqrt(inside / (centred**2).sum()),
        "accuracy": np.mean(z.argmax(1) == y),
    }


def measure(x, y, k, logits=None, weight=None, bias=None, ood=None, prior="uniform", weights=None):
    """Compute every metric of features (n, d) with labels y, in float64."""
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y)
    weights = np.ones(k) if weights is None else np.asarray(weights, dtype=np.float64)
    classes = [c for c in range(k) if (y == c).any()]
    counts = np.array([(y == c).sum() for c in classes])
    pi = np.ones(len(classes)) if isinstance(prior, str) else np.asarray(prior, dtype=np.float64)[classes]
    pi = counts if isinstance(prior, str) and prior == "data" else pi
    pi = pi / pi.sum()
    means = class_means(x, y, classes)
    sw, sb = within(x, y, classes, weights), covariance_between(means, pi)
    found = of_means(means)
    variances = [((x[y == c] - m) ** 2).sum() / n for c, m, n in zip(classes, means, counts, strict=True)]
    ratios = [
        (variances[i] + variances[j]) / (2 * ((means[i] - means[j]) ** 2).sum())
        for i, j in itertools.combinations(range(len(classes)), 2)
    ]
    near = np.array([classes[int(np.argmin([((row - m) ** 2).sum() for m in means]))] for row in x])
    found |= {
        "nc1": np.trace(sw @ np.linalg.pinv(sb, rcond=1e-11, hermitian=True)) / len(classes),
        "nc1_ratio": np.trace(sw) / np.trace(sb),
        "cdnv": np.mean(ratios),
        "ncm_accuracy": np.mean(near == y),
        "means": means,
        "feature_radius": max(math.sqrt(row @ row) for row in x),
    }
    decisions = None
    if logits is not None:
        logits = np.asarray(logits, dtype=np.float64)
        found |= of_logits(logits, y, k, weights)
        decisions = logits.argmax(1)
    if weight is not None:
        weight = np.asarray(weight, dtype=np.float64)
        product = weight[classes] @ (means - means.mean(0)).T
        found["nc3"] = np.linalg.norm(product / np.linalg.norm(product) - simplex_target(len(classes)))
        parts = [part / np.linalg.norm(part) for part in (weight[classes], means - means.mean(0))]
        found["duality"] = np.linalg.norm(parts[0] - parts[1])
        decisions = (x @ weight.T + (0 if bias is None else np.asarray(bias, dtype=np.float64))).argmax(1)
    if decisions is not None:
        found["nc4"] = np.mean(decisions != near)
    if ood is not None:
        centre = np.asarray(ood, dtype=np.float64).mean(0)
        found["nc5"] = np.mean([abs(m @ centre) / math.sqrt((m @ m) * (centre @ centre)) for m in means])
    return found
