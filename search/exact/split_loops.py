"""The loops behind the exact programmes of splits, compiled: ways at prices, states under a bound, labels."""

from __future__ import annotations

import numpy as np
from numba import njit

PRICE_STEPS = 60  # of subgradients, for the prices of devices


@njit(cache=True)
def relaxed_ways(stage_c, hop_s, hop_c, limit, prices):  # type: ignore[no-untyped-def]
    """The least cost from each cut to the end where every device may be used any number of times, at a price a use:
    [N, K] of ways that begin with a stage on option k, [N, K] of those behind a stage that ended there on option k, and
    of the best way the rows (option, begin, end), the first stage first. prices [K]."""
    n_options, n_cuts = stage_c.shape[0], stage_c.shape[1]
    begin = np.full((n_cuts, n_options), np.inf)
    end = np.full((n_cuts, n_options), np.inf)
    to = np.zeros((n_cuts, n_options), np.int64)  # where the stage that begins here ends
    following = np.zeros((n_cuts, n_options), np.int64)  # the option behind the one that ends here
    for k in range(n_options):
        end[n_cuts - 1, k] = 0.0
    for i in range(n_cuts - 2, -1, -1):
        for k in range(n_options):
            for j in range(i + 1, n_cuts):
                cost = stage_c[k, i, j] + prices[k] + end[j, k]
                if cost < begin[i, k]:
                    begin[i, k] = cost
                    to[i, k] = j
        if i > 0:
            for k in range(n_options):
                for q in range(n_options):
                    if hop_s[k, q, i] <= limit:
                        cost = hop_c[k, q, i] + begin[i, q]
                        if cost < end[i, k]:
                            end[i, k] = cost
                            following[i, k] = q
    rows = np.empty((n_cuts, 3), np.int64)
    n_rows, at = 0, 0
    k = int(np.argmin(begin[0]))
    if begin[0, k] < np.inf:
        while at < n_cuts - 1:
            rows[n_rows, 0], rows[n_rows, 1], rows[n_rows, 2] = k, at, to[at, k]
            n_rows += 1
            at = to[at, k]
            k = following[at, k]
    return begin, end, rows[:n_rows]


@njit(cache=True)
def priced_ways(  # type: ignore[no-untyped-def]
    stage_c, hop_s, hop_c, limit, ceiling, types, type_counts, replicas, prices,
):  # fmt: skip
    """Prices of devices [T] that make a relaxed plan use no more of them than there are, by subgradients from `prices`
    on; with them the relaxed plan bounds the cost of every plan from below. Returns that bound, the prices, the cost of
    the best plan met which uses no device too often (inf: none), and its rows. Ends where the bound reaches `ceiling`
    or that cost."""
    n_types, n_options = len(type_counts), len(types)
    best_prices, best_bound = prices.copy(), -np.inf
    found, found_rows = np.inf, np.empty((0, 3), np.int64)
    step = 1.0
    now = prices.copy()
    of_option = np.empty(n_options)
    for _ in range(PRICE_STEPS):
        for k in range(n_options):
            of_option[k] = now[types[k]] * replicas[k]
        begin, _, rows = relaxed_ways(stage_c, hop_s, hop_c, limit, of_option)
        total = begin[0].min()
        if total == np.inf:
            return np.inf, now, np.inf, found_rows
        bound = total - (now * type_counts).sum()
        over = -type_counts.astype(np.float64)
        cost = total
        for r in range(len(rows)):
            k = rows[r, 0]
            over[types[k]] += replicas[k]
            cost -= of_option[k]
        if bound > best_bound:
            if bound < best_bound + 1e-4 * abs(best_bound):
                step *= 0.7
            best_bound, best_prices = bound, now.copy()
        else:
            step *= 0.7
        if (over <= 0).all() and cost < found:
            found, found_rows = cost, rows
        if best_bound >= min(ceiling, found) * (1 - 1e-12) or step < 1e-3:
            break
        goal = min(ceiling, found)
        if goal == np.inf:
            goal = best_bound + 0.05 * abs(best_bound) + 1e-30
        norm = 0.0
        for t in range(n_types):
            if over[t] < 0 and now[t] == 0:
                over[t] = 0.0
            norm += over[t] * over[t]
        if norm == 0:
            break
        for t in range(n_types):
            now[t] = max(0.0, now[t] + step * max(goal - bound, 1e-4 * abs(bound)) * over[t] / norm)
    return best_bound, best_prices, found, found_rows


@njit(cache=True, nogil=True)
def least_states(  # type: ignore[no-untyped-def]
    stage_s, stage_c, hop_s, hop_c, limit, bottleneck, begin, end, spare, ceiling, weight, place, counts, replicas,
    best, start, before, stop,
):  # fmt: skip
    """The least cost of a plan without stage or hop slower than `limit`: sums of stage_c and hop_c, or their maximum
    with `bottleneck`. Plans that cost `ceiling` or more are not looked for.

    begin, end [N, K]: bounds on what the way from a cut to the end costs, from before a stage on an option and behind
    one, of which `spare` [used] is to be taken off again for the devices that are left. best, start, before
    [N, used, K]: tables of inf and anything, which are left so. stop [1]: once it is not 0, nothing more is looked at.
    Returns the cost, and the plan as rows (option, begin, end), the last stage first."""
    n_options, n_cuts, n_used = stage_s.shape[0], stage_s.shape[1], best.shape[1]
    # best: of a plan to this cut, whose last stage is this option; start, before: where it began, the option before
    entry = np.full((n_used, n_options), np.inf)  # a plan to the cut at hand and over the hop to this next option
    behind = np.full((n_used, n_options), -1, np.int16)  # the option before it
    ends = np.empty(n_cuts, np.int64)
    head = np.full(n_cuts, -1, np.int64)  # states by cut, as chains through `following`
    following, code = np.empty(1 << 12, np.int64), np.empty(1 << 12, np.int64)
    n_states = 0
    fresh = np.empty(n_used * n_options, np.int64)  # entries of the cut at hand
    last, last_cost = -1, ceiling
    for i in range(n_cuts - 1):
        if stop[0] != 0:
            break
        n_fresh = 0
        if i == 0:
            for k in range(n_options):
                entry[0, k] = 0.0
                fresh[n_fresh] = k
                n_fresh += 1
        state = head[i]
        while state >= 0 and stop[0] == 0:
            u, k = code[state] // n_options, code[state] % n_options
            state = following[state]
            so_far = best[i, u, k]
            for q in range(n_options):
                if hop_s[k, q, i] <= limit:
                    cost = max(so_far, hop_c[k, q, i]) if bottleneck else so_far + hop_c[k, q, i]
                    at_least = max(cost, begin[i, q]) if bottleneck else cost + begin[i, q] - spare[u]
                    if cost < entry[u, q] and at_least < last_cost:
                        if entry[u, q] == np.inf:
                            fresh[n_fresh] = u * n_options + q
                            n_fresh += 1
                        entry[u, q] = cost
                        behind[u, q] = k
        for k in range(n_options):
            if stop[0] != 0:
                break
            n_ends = 0
            for j in range(i + 1, n_cuts):
                if stage_s[k, i, j] <= limit:
                    ends[n_ends] = j
                    n_ends += 1
            for f in range(n_fresh):
                if fresh[f] % n_options != k:
                    continue
                u = fresh[f] // n_options
                so_far, from_option = entry[u, k], behind[u, k]
                if (u // place[k]) % (counts[k] + 1) + replicas[k] > counts[k]:
                    continue
                to = u + weight[k]
                for e in range(n_ends):
                    j = ends[e]
                    cost = max(so_far, stage_c[k, i, j]) if bottleneck else so_far + stage_c[k, i, j]
                    at_least = max(cost, end[j, k]) if bottleneck else cost + end[j, k] - spare[to]
                    if j == n_cuts - 1:
                        at_least = cost
                    if cost < best[j, to, k] and at_least < last_cost:
                        if best[j, to, k] == np.inf:
                            if n_states == len(code):
                                following, code = _doubled(following), _doubled(code)
                            following[n_states], code[n_states] = head[j], to * n_options + k
                            head[j] = n_states
                            n_states += 1
                        best[j, to, k] = cost
                        start[j, to, k] = i
                        before[j, to, k] = from_option
                        if j == n_cuts - 1:
                            last, last_cost = to * n_options + k, cost
        for f in range(n_fresh):
            entry[fresh[f] // n_options, fresh[f] % n_options] = np.inf
    rows = np.empty((n_cuts, 3), np.int64)
    n_rows, at = 0, n_cuts - 1
    while last >= 0 and at > 0:
        u, k = last // n_options, last % n_options
        rows[n_rows, 0], rows[n_rows, 1], rows[n_rows, 2] = k, start[at, u, k], at
        n_rows += 1
        last = (u - weight[k]) * n_options + before[at, u, k]
        at = start[at, u, k]
    for j in range(n_cuts):
        state = head[j]
        while state >= 0:
            best[j, code[state] // n_options, code[state] % n_options] = np.inf
            state = following[state]
    return (last_cost if n_rows else np.inf), rows[:n_rows]


@njit(cache=True)
def _doubled(values):  # type: ignore[no-untyped-def]
    """An array twice as long."""
    out = np.empty(2 * len(values), values.dtype)
    out[: len(values)] = values
    return out


@njit(cache=True, nogil=True)
def _keep(labels, n, dims, stop):  # type: ignore[no-untyped-def]
    """Move the non-dominated of the first n labels to the front, in lexicographic order; returns how many."""
    order = np.arange(n)
    for d in range(dims - 1, -1, -1):
        order = order[np.argsort(labels[order, d], kind="mergesort")]
    kept = np.empty((n, labels.shape[1]))
    m = 0
    for a in range(n):
        if stop[0] != 0:
            break
        row = labels[order[a]]
        beaten = False
        for b in range(m - 1, -1, -1):
            beaten = True
            for d in range(1, dims):
                if kept[b, d] > row[d] * (1 + 1e-12):
                    beaten = False
                    break
            if beaten:
                break
        if not beaten:
            kept[m] = row
            m += 1
    labels[:m] = kept[:m]
    return m


@njit(cache=True)
def _grown(pool, n):  # type: ignore[no-untyped-def]
    """A pool with room for n rows."""
    if n <= pool.shape[0]:
        return pool
    larger = np.empty((max(n, 2 * pool.shape[0]), pool.shape[1]))
    larger[: pool.shape[0]] = pool
    return larger


@njit(cache=True, nogil=True)
def labels(  # type: ignore[no-untyped-def]
    stage_s, stage_j, latency_s, hop_s, hop_j, medium_s, delay_s, idle_w, with_latency, ceilings, rest_j, rest_s,
    weight, place, counts, replicas, n_used, stop,
):  # fmt: skip
    """Label setting. Returns the pool of labels [n, 8]: period, joules, latency, medium seconds, watts, option, begin
    cut, number of the label before (-1: none); and the numbers of those at the last cut.

    ceilings [m, 3]: (period, energy, latency) of known plans; a label that cannot become better is dropped. rest_j,
    rest_s [N]: least joules and seconds from a cut to the end. stop [1]: once it is not 0, nothing more is looked at.
    """
    n_options, n_cuts = stage_s.shape[0], stage_s.shape[1]
    dims = 4
    pool = np.empty((1 << 16, 8))
    n_pool = 0
    first = np.zeros((n_cuts, n_used, n_options), np.int64)  # labels over the hop to the option: slices of `ways`
    count = np.zeros((n_cuts, n_used, n_options), np.int64)
    ways = np.empty((1 << 16, 8))  # the first four as in the pool, 7: number of the label before
    n_ways = 0
    buffer = np.empty((1 << 12, 8))
    for k in range(n_options):
        first[0, 0, k], count[0, 0, k] = n_ways, 1
        ways[n_ways, :] = 0.0
        ways[n_ways, 7] = -1
        n_ways += 1
    here = np.zeros((n_used, n_options, 2), np.int64)
    for j in range(1, n_cuts):
        for u in range(n_used):
            for k in range(n_options):
                here[u, k, 0], here[u, k, 1] = n_pool, 0
                if stop[0] != 0:
                    continue
                if (u // place[k]) % (counts[k] + 1) < replicas[k]:
                    continue
                before = u - weight[k]
                n = 0
                for i in range(j):
                    if stage_s[k, i, j] == np.inf or stop[0] != 0:
                        continue
                    at = first[i, before, k]
                    for w in range(at, at + count[i, before, k]):
                        watts = ways[w, 4] + idle_w[k]
                        period = max(ways[w, 0], stage_s[k, i, j])
                        joules = ways[w, 1] + stage_j[k, i, j]
                        latency = ways[w, 2] + (latency_s[k, i, j] if with_latency else 0.0)
                        at_least = joules + rest_j[j] + watts * max(period, ways[w, 3])
                        slow = latency + rest_s[j]
                        beaten = False
                        for c in range(ceilings.shape[0]):
                            if (
                                ceilings[c, 0] < max(period, ways[w, 3]) * (1 - 1e-12)
                                and ceilings[c, 1] < at_least * (1 - 1e-12)
                                and (not with_latency or ceilings[c, 2] < slow * (1 - 1e-12))
                            ):
                                beaten = True
                                break
                        if beaten:
                            continue
                        buffer = _grown(buffer, n + 1)
                        buffer[n, 0], buffer[n, 1], buffer[n, 2], buffer[n, 3] = period, joules, latency, ways[w, 3]
                        buffer[n, 4], buffer[n, 5], buffer[n, 6], buffer[n, 7] = watts, k, i, ways[w, 7]
                        n += 1
                if n == 0:
                    continue
                n = _keep(buffer, n, dims, stop)
                pool = _grown(pool, n_pool + n)
                pool[n_pool : n_pool + n] = buffer[:n]
                here[u, k, 1] = n
                n_pool += n
        if j == n_cuts - 1:
            break
        for u in range(n_used):
            for q in range(n_options):
                n = 0
                for k in range(n_options):
                    if hop_s[k, q, j] == np.inf or stop[0] != 0:
                        continue
                    for p in range(here[u, k, 0], here[u, k, 0] + here[u, k, 1]):
                        buffer = _grown(buffer, n + 1)
                        buffer[n, 0] = max(pool[p, 0], hop_s[k, q, j])
                        buffer[n, 1] = pool[p, 1] + hop_j[k, q, j]
                        buffer[n, 2] = pool[p, 2] + (delay_s[k, q, j] if with_latency else 0.0)
                        buffer[n, 3] = pool[p, 3] + medium_s[k, q, j]
                        buffer[n, 4], buffer[n, 7] = pool[p, 4], p
                        n += 1
                first[j, u, q] = n_ways
                if n == 0:
                    continue
                n = _keep(buffer, n, dims, stop)
                ways = _grown(ways, n_ways + n)
                ways[n_ways : n_ways + n] = buffer[:n]
                count[j, u, q] = n
                n_ways += n
    n = 0
    for u in range(n_used):
        for k in range(n_options):
            n += here[u, k, 1]
    return pool[:n_pool], np.arange(n_pool - n, n_pool)
