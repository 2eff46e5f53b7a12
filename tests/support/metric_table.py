"""The table of metrics in OBSERVABILITY.md, generated from the definitions: `python -m tests.support.metric_table`."""

from pathlib import Path

from federation.telemetry.metric_definitions import METRICS

PAGE = Path(__file__).parents[2] / "docs" / "OBSERVABILITY.md"
BEGIN, END = "<!-- metrics:begin -->\n", "<!-- metrics:end -->"


def table() -> str:
    """Return the table: every metric, by both its names, with kind, unit, attributes and meaning."""
    lines = ["| metric | at Prometheus | kind | unit | attributes | meaning |", "|---|---|---|---|---|---|"]
    for metric in METRICS:
        attributes = ", ".join(f"`{name}`" for name in metric.attributes) or "none"
        unit = metric.unit or "none"
        names = f"`{metric.name}` | `{metric.prometheus_name}`"
        lines.append(f"| {names} | {metric.kind.value} | {unit} | {attributes} | {metric.description}. |")
    return "\n".join(lines) + "\n"


def documented_table() -> str:
    """Return the table in the document."""
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.split(BEGIN)[0] + BEGIN + table() + END + text.split(END)[1], encoding="utf-8")
