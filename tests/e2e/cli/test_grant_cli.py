"""`grant create|list|show` and id prefixes, against two gateways in separate processes."""

from typing import Any

import pytest

from tests.support.cli_runner import Cli

pytestmark = pytest.mark.e2e

TEAM_ONE = '{"resources":["tasks"],"filters":{"tasks":{"include_teams":["T1"]}}}'
CREATE = "federation grant create -g work --peer home.example --subject ada"
WORDS = ["reads tasks of team T1, no personal rows", "at most 100 rows a query", "600 calls a minute"]


def create(cli: Cli, scope: str = TEAM_ONE, *, peer: str = "home.example", subject: str = "ada") -> Any:
    """Create a grant; return the printed JSON."""
    return cli(f"federation grant create -g work --peer {peer} --subject {subject} --json --scope", scope).json


def count(cli: Cli) -> int:
    """The number of grants."""
    return len(cli("federation grant list -g work --all --json").json["grants"])


def test_a_new_grant_is_shown_with_its_scope_and_rows(cli: Cli) -> None:
    """The scope as text, and the rows that it allows, newest first; also as JSON."""
    made = create(cli)
    human = cli(CREATE, "--scope", TEAM_ONE)

    assert made["grant"]["words"] == WORDS
    ids = ["task-10", "task-8", "task-6", "task-4", "task-2"]
    assert made["opens"] == [{"resource": "tasks", "rows": 6, "more": False, "newest_ids": ids}]
    assert made["created"] is True
    assert all(words in human.out for words in WORDS)
    assert "WOULD OPEN" in human.out
    assert "6     task-10, task-8, task-6, task-4, task-2" in human.out
    assert "is pending for home.example as ada already" in human.err


def test_a_dry_run_creates_nothing_and_shows_the_same(cli: Cli) -> None:
    """Everything is checked and shown; afterwards there is no grant, no id and no audit event."""
    made, before = create(cli), count(cli)

    tried = cli(f"{CREATE} --dry-run --json --scope", TEAM_ONE).json
    human = cli(f"{CREATE} --dry-run --scope", TEAM_ONE)

    assert count(cli) == before
    assert (tried["created"], tried["grant"]["id"]) == (False, None)
    assert tried["opens"] == made["opens"]
    assert tried["grant"]["words"] == made["grant"]["words"]
    assert "(not created)" in human.out
    assert human.err.endswith("nothing was created (--dry-run)\n")
    for wrong in ("--peer home.example --subject adda", "--peer Home! --subject ada"):
        cli(f"federation grant create -g work --dry-run {wrong} --scope", TEAM_ONE, code=1)


@pytest.mark.parametrize(
    ("scope", "peer", "words"),
    [
        ('{"resources":["tasks"],"filters":{"tasks":{"include_teams":["t1"]}}}', "w1.example",
         "scope.filters.tasks.include_teams: there is no team 't1' here; did you mean T1?"),
        ('{"resources":["notes"],"filters":{"notes":{"include_teams":["T2"]}}}', "w2.example",
         "scope.filters.notes.include_teams: team 'T2' currently has no notes"),
        ('{"resources":["tasks"],"filters":{"tasks":{"include_teams":[]}}}', "w3.example",
         "scope.filters.tasks lets no row through: it names no team, and leaves personal rows out"),
        ('{"resources":["memory"]}', "w4.example", "the grant currently opens no row: ada has no row here"),
        ('{"resources":["credentials"]}', "w5.example", "scope.resources opens credentials, which hold secrets"),
        ('{"resources":["tasks"]}', "work.example", "peer: work.example is this gateway's own name"),
        ('{"resources":["tasks"]}', "hoem.example", "peer: no other grant names hoem.example; did you mean home.ex"),
    ],
)  # fmt: skip
def test_an_unusual_scope_gives_a_warning(cli: Cli, scope: str, peer: str, words: str) -> None:
    """The grant is created; stderr and the JSON have a warning."""
    create(cli)

    tried = cli(f"federation grant create -g work --dry-run --peer {peer} --subject ada --json --scope", scope)

    assert any(warning.startswith(words) for warning in tried.json["warnings"]), tried.json["warnings"]
    assert f"warning: {words}" in tried.err


def test_a_team_without_the_subject_gives_a_warning(cli: Cli) -> None:
    """Bob is not in T1: a filter on T1 only allows rows that he owns there."""
    tried = cli("federation grant create -g work --dry-run --peer b.example --subject bob --json --scope", TEAM_ONE)

    assert tried.json["warnings"][0] == (
        "scope.filters.tasks.include_teams: bob is not in team 'T1', so only rows in it that bob owns are opened"
    )
    assert tried.json["opens"] == [{"resource": "tasks", "rows": 0, "more": False, "newest_ids": []}]


def test_a_usual_scope_gives_no_warning(cli: Cli) -> None:
    """A usual scope has no warning."""
    tried = cli("federation grant create -g work --dry-run --peer quite.another --subject ada --scope", TEAM_ONE)

    assert "warning" not in tried.err


def test_grants_are_filtered_and_paged(cli: Cli) -> None:
    """Each filter selects; a page says how to continue, and `--all` continues automatically."""
    for _ in range(3):
        create(cli, peer="paged.example", subject="bob")
    listing = "federation grant list -g work --json --peer paged.example"

    whole = cli(f"{listing} --all").json
    first = cli(f"{listing} --page-size 2").json
    rest = cli(f"{listing} --page-size 2 --page-token {first['next_page_token']}").json
    human = cli("federation grant list -g work --peer paged.example --page-size 2")

    ids = [grant["id"] for grant in whole["grants"]]
    assert len(ids) == 3
    assert whole["next_page_token"] is None
    assert [grant["id"] for grant in first["grants"] + rest["grants"]] == ids
    assert rest["next_page_token"] is None
    assert "more grants: --all" in human.err
    cli(f"federation grant revoke {ids[1]} -g work")
    revoked = cli(f"{listing} --status revoked").json["grants"]
    assert [grant["id"] for grant in revoked] == [ids[1]]
    assert [grant["id"] for grant in cli(f"{listing} --status pending").json["grants"]] == [ids[0], ids[2]]
    assert cli(f"{listing} --subject ada").json["grants"] == []
    none = cli("federation grant list -g work --peer paged.example --status expired")
    assert (none.out, none.err) == ("", "no grant matches these filters\n")


def test_a_page_of_grants_continues_at_its_place(cli: Cli) -> None:
    """A grant that is created or revoked meanwhile neither repeats nor hides another grant."""
    for _ in range(4):
        create(cli, peer="moving.example", subject="bob")
    listing = "federation grant list -g work --json --peer moving.example --status pending"
    ids = [grant["id"] for grant in cli(f"{listing} --all").json["grants"]]
    token = cli(f"{listing} --page-size 2").json["next_page_token"]

    create(cli, peer="moving.example", subject="bob")
    assert [grant["id"] for grant in cli(f"{listing} --page-token {token}").json["grants"]] == ids[2:]
    cli(f"federation grant revoke {ids[0]} -g work")
    assert [grant["id"] for grant in cli(f"{listing} --page-token {token}").json["grants"]] == ids[2:]
    other = cli(f"federation grant list -g work --page-token {token}", code=1)
    assert other.err.startswith("error: page_token: is not a token of an earlier page with these filters")
    for grant in ids[2:]:
        cli(f"federation grant revoke {grant} -g work")
    assert cli(f"{listing.replace(' --json', '')} --page-token {token}").err == "no more grants\n"


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("federation grant list -g work --peer hmoe.example", 1,
         "error: no grant for the gateway 'hmoe.example'; did you mean home.example?"),
        ("federation grant list -g work --subject adda", 1, "error: no user 'adda'; did you mean ada?"),
        ("federation grant list -g work --status activ", 2, "'activ' is not a known value; did you mean active?"),
        ("federation grant list -g work --page-size 0", 2, "--page-size"),
        ("federation grant list -g work --page-token x", 1, "error: page_token: "),
        ("federation grant show -g work zzzz", 1,
         "error: no grant 'zzzz'; list the grants to find its id: mosaic federation grant list"),
    ],
)  # fmt: skip
def test_a_misspelled_filter_gives_a_suggestion(cli: Cli, line: str, code: int, words: str) -> None:
    """One line on stderr, nothing on stdout."""
    create(cli)

    ran = cli(line, code=code)

    assert words in ran.err
    assert (ran.out, ran.err.count("\n")) == ("", 1)


def test_a_scope_that_excludes_all_its_resources_says_so(cli: Cli) -> None:
    """The text names the scope as the reason: in a dry run, for a pending grant and for an active grant."""
    scope = '{"resources": ["tasks"], "excluded_resources": ["tasks"]}'
    grant = create(cli, scope, peer="closed.example")["grant"]["id"]
    why = "the grant opens nothing: its scope excludes every resource that it names\n"

    assert why in cli(f"{CREATE} --dry-run --scope", scope).err
    assert cli(f"federation grant show {grant} -g work").err == why


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--expires", "", "--scope", TEAM_ONE), 2, "'' is not a duration; use one such as 90d, 12h or 30m"),
        (("--scope", ""), 1, "error: scope: is empty; give a file, - for standard input, or the JSON\n"),
        (("--scope", "{}"), 1, "error: scope.resources: name at least one resource, such as tasks\n"),
    ],
    ids=["end", "scope", "resources"],
)
def test_an_empty_option_creates_no_grant(cli: Cli, arguments: tuple[str, ...], code: int, words: str) -> None:
    """An empty variable creates no grant, in particular none without an expiry."""
    before = count(cli)

    assert words in cli(CREATE, *arguments, code=code).err
    assert count(cli) == before


def test_an_id_prefix_selects_a_grant(cli: Cli) -> None:
    """Four characters are enough; fewer are refused, and a misspelled prefix gives a suggestion."""
    grant = create(cli)["grant"]["id"]
    others = [one["id"] for one in cli("federation grant list -g work --all --json").json["grants"]]
    length = next(size for size in range(4, 37) if sum(one.startswith(grant[:size]) for one in others) == 1)

    assert cli(f"federation grant show {grant[:length]} -g work --json").json["grant"]["id"] == grant
    assert cli(f"federation grant show {grant[:length].upper()} -g work --json").json["grant"]["id"] == grant
    short = cli(f"federation grant show {grant[:3]} -g work", code=1)
    assert "give at least 4 characters of the id" in short.err
    wrong = cli(f"federation grant show {grant[:-2]}zz -g work", code=1)
    assert wrong.err == f"error: no grant '{grant[:-2]}zz'; did you mean {grant}?\n"


def test_revoking_by_a_prefix_prints_the_full_id_first(cli: Cli) -> None:
    """Before the revocation stderr has the full id, the peer and the subject; then the receipt is printed."""
    grant = create(cli)["grant"]["id"]

    ran = cli(f"federation grant revoke {grant[:13]} -g work --json")

    assert ran.err == f"{grant[:13]} is grant {grant}: home.example reads as ada\n"
    assert ran.json["receipt"]["grant_id"] == grant
    assert cli(f"federation grant revoke {grant} -g work --json").err == ""


def test_a_revoked_grant_is_shown_with_its_receipt(cli: Cli) -> None:
    """The receipt has the time, the reason and the effective time; the rows are not counted."""
    grant = create(cli)["grant"]["id"]
    cli(f"federation grant revoke {grant} -g work --reason", "contract ended")

    shown = cli(f"federation grant show {grant} -g work --json").json
    human = cli(f"federation grant show {grant} -g work")

    assert (shown["grant"]["status"], shown["opens"]) == ("revoked", [])
    (receipt,) = shown["receipts"]
    assert (receipt["kind"], receipt["reason"], receipt["instances"]) == ("revoked", "contract ended", [])
    assert receipt["effective_at"] >= receipt["revoked_at"]
    assert "effective" in human.out
    assert "contract ended" in human.out
    assert human.err == "the grant opens nothing: it is revoked\n"


def test_a_used_grant_is_shown_with_its_use(cli: Cli) -> None:
    """After an enrollment and a query: certificate with times, last use, leases, watchers and calls."""
    grant = cli.enroll("used", scope=TEAM_ONE)
    cli("federation query list tasks --user ada --source federated:used -g home")

    shown = cli(f"federation grant show {grant} -g work --json").json["grant"]
    human = cli(f"federation grant show {grant} -g work").out

    assert (shown["status"], shown["leases"], shown["watches"]) == ("active", 1, 1)
    assert shown["requests"] >= 1
    assert shown["certificate"]["fingerprint"] in human
    assert "OPENS NOW" in human
    facts = dict(line.split(maxsplit=1) for line in human.splitlines() if line.startswith(("caches", "calls", "ends")))
    assert facts["caches"] == "1 may hold answers, 1 connected"
    assert facts["ends"].endswith("UTC (in 24 h)")
    cli("federation peer remove used -g home")
