"""What Agarwal et al. (2021) define over games and runs, by loops and by all resamples there are.

Nothing here is shared with `rlarcade`, and nothing is fast: intervals come from every resample
with replacement within each game, so only a few games with a few runs can be asked for.
"""

from itertools import product


def mean_of(values):
    return sum(values) / len(values)


def median(scores):
    """Median over games of the mean over runs."""
    means = sorted(mean_of(game) for game in scores)
    middle = len(means) // 2
    return means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2


def iqm(scores):
    """Mean of all runs of all games without a quarter at each end."""
    every = sorted(score for game in scores for score in game)
    cut = len(every) // 4
    return mean_of(every[cut : len(every) - cut])


def mean(scores):
    return mean_of([mean_of(game) for game in scores])


def optimality_gap(scores):
    """What runs lack to 1: a run that is better than a human makes up for no other one."""
    lacks = []
    for game in scores:
        lacks.append(mean_of([1 - score if score < 1 else 0 for score in game]))
    return mean_of(lacks)


def share_above(scores, tau):
    """The performance profile at one τ."""
    shares = []
    for game in scores:
        above = 0
        for score in game:
            if score > tau:
                above += 1
        shares.append(above / len(game))
    return mean_of(shares)


def every_resample(scores):
    """All equally likely draws of as many runs as each game has, with replacement."""
    return product(*(list(product(game, repeat=len(game))) for game in scores))


def shares_of_resamples(scores, statistic, low, high):
    """Shares of all resamples whose statistic is below `low`, and above `high`."""
    values = [statistic(resample) for resample in every_resample(scores)]
    tiny = 1e-9
    return (
        mean_of([value < low - tiny for value in values]),
        mean_of([value > high + tiny for value in values]),
    )
