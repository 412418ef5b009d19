"""Layers that only the host can run: for which reasons, and how much of the time each takes."""

from __future__ import annotations

from collections.abc import Sequence

from cosoc.sim.report.result import Result


def by_reason(result: Result) -> dict[str, tuple[int, Sequence[str]]]:
    """Of each reason why layers are on the host: ticks of the critical path, and the layers; the longest first."""
    out: dict[str, tuple[int, list[str]]] = {}
    for part in result.by_layer:
        if part.why_host:
            ticks, names = out.get(part.why_host, (0, []))
            out[part.why_host] = ticks + part.ticks_critical, [*names, part.layer]
    return dict(sorted(out.items(), key=lambda one: -one[1][0]))


def reason_lines(result: Result) -> list[str]:
    """`by_reason` as text, a line each."""
    return [
        f"{ticks / max(result.ticks, 1):.1%} of the time on the host, "
        f"in {len(names)} layer{'s' * (len(names) > 1)}: {why}"
        for why, (ticks, names) in by_reason(result).items()
    ]


def host_share(result: Result) -> str:
    """How much of the time layers take that only the host can run, in a sentence with the first reason; '' where that
    is less than a hundredth."""
    reasons = by_reason(result)
    ticks = sum(spent for spent, _ in reasons.values())
    if not result.ticks or 100 * ticks < result.ticks:
        return ""
    (first, (most, _)), share = next(iter(reasons.items())), ticks / result.ticks
    part = f", {most / result.ticks:.0%} as" if len(reasons) > 1 else ":"
    return f"On the host for {share:.0%} of the time{part} {first}."


__all__ = ["by_reason", "host_share", "reason_lines"]
