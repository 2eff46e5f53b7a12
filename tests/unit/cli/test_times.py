from datetime import UTC, datetime, timedelta, timezone

import pytest

from mosaic_cli.output.times import parse_instant

NOW = datetime(2026, 5, 3, 10, 20, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("now", "2026-05-03T08:20:30"),
        ("2h", "2026-05-03T06:20:30"),
        ("90m", "2026-05-03T06:50:30"),
        ("45s", "2026-05-03T08:19:45"),
        ("1h30m", "2026-05-03T06:50:30"),
        ("3d", "2026-04-30T08:20:30"),
        ("1w", "2026-04-26T08:20:30"),
        (" 2H ", "2026-05-03T06:20:30"),
        ("today", "2026-05-03T00:00:00"),
        ("Yesterday", "2026-05-02T00:00:00"),
        ("2026-05-01", "2026-05-01T00:00:00"),
        ("2026-05-01 12:30", "2026-05-01T12:30:00"),
        ("2026-05-01T12:30:15Z", "2026-05-01T12:30:15"),
        ("2026-05-01t12:30:15z", "2026-05-01T12:30:15"),
        ("2026-05-01T12:30:15.25+02:00", "2026-05-01T10:30:15.250000"),
    ],
)
def test_an_instant_is_parsed_in_every_form(text: str, instant: str) -> None:
    """Relative forms count from now, days start at midnight UTC, and the default zone is UTC."""
    assert parse_instant(text, NOW) == datetime.fromisoformat(instant).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "h", "2", "2x", "-2h", "2h ago", "tomorrow", "2026-13-01", "2026-05", "20260501", "٢h", "999999w"]
)
def test_an_invalid_instant_is_reported_with_the_valid_forms(text: str) -> None:
    """The message has the text and every form."""
    with pytest.raises(ValueError, match=r"is not a point in time; use 2h, 3d, 1w, today, yesterday, 2026-05-03 or"):
        parse_instant(text, NOW)
