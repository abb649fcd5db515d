"""Medians over rounds, and the tables that are printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load import Result


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: medians over rounds. Latencies in seconds, ratios to the baseline of the same round."""

    case: str
    connections: int
    rate: float
    ratio: float
    lowest: float
    highest: float
    p50: float
    p99: float


def summarize(case: str, connections: int, results: Sequence[Result], baseline: Sequence[Result]) -> Row:
    """The row of a case whose results stand beside those of its baseline, round by round."""
    ratios = [result.rate / base.rate for result, base in zip(results, baseline, strict=True)]
    return Row(
        case,
        connections,
        rate=median(result.rate for result in results),
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        p50=median(result.p50 for result in results),
        p99=median(result.p99 for result in results),
    )


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table, latencies in milliseconds."""
    lines = [
        f"| {'':<26} | connections | requests/s | ratio | lowest, highest | p50 ms | p99 ms |",
        f"|{'-' * 28}|------------:|-----------:|------:|----------------:|-------:|-------:|",
    ]
    for row in rows:
        span = f"{row.lowest:.2f}, {row.highest:.2f}"
        lines.append(
            f"| {row.case:<26} | {row.connections:>11} | {row.rate:>10,.0f} | {row.ratio:>5.2f} | {span:>15} "
            f"| {row.p50 * 1e3:>6.2f} | {row.p99 * 1e3:>6.2f} |"
        )
    return "\n".join(lines)
