"""The table of metrics in OBSERVABILITY.md, generated from the definitions: `python -m tests.support.metric_table`."""

from pathlib import Path

from federation.telemetry import metric_definitions
from federation.telemetry.metric_definitions import Kind, Metric

METRICS = tuple(value for value in vars(metric_definitions).values() if isinstance(value, Metric))
"""Every definition."""
PAGE = Path(__file__).parents[2] / "docs" / "OBSERVABILITY.md"
BEGIN, END = "<!-- metrics:begin -->\n", "<!-- metrics:end -->"

_SUFFIXES = {"s": "_seconds", "By": "_bytes"}


def prometheus_name(metric: Metric) -> str:
    """Return the name at `/metrics`; a histogram's series add `_bucket`, `_sum` and `_count`."""
    suffix = _SUFFIXES.get(metric.unit, "")
    plain = metric.name.replace(".", "_")
    total = "_total" if metric.kind is Kind.COUNTER else ""
    return (plain if plain.endswith(suffix) else plain + suffix) + total


def table() -> str:
    """Return the table: every metric, by both its names, with kind, unit, attributes and meaning."""
    lines = ["| metric | at Prometheus | kind | unit | attributes | meaning |", "|---|---|---|---|---|---|"]
    for metric in METRICS:
        attributes = ", ".join(f"`{name}`" for name in metric.attributes) or "none"
        unit = metric.unit or "none"
        names = f"`{metric.name}` | `{prometheus_name(metric)}`"
        lines.append(f"| {names} | {metric.kind.value} | {unit} | {attributes} | {metric.description}. |")
    return "\n".join(lines) + "\n"


def documented_table() -> str:
    """Return the table in the document."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.split(BEGIN)[0] + BEGIN + table() + END + text.split(END)[1], encoding="utf-8")
