"""The console in headless Chromium, over a router with the demo tiers on loop-back."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from rankfleet.autoscaler.board import Board, Change, GroupBoard
from rankfleet.core.errors import Unavailable
from rankfleet.core.experiment_state import ExperimentState
from rankfleet.router.replica_record import Entry
from tests.check.browser import Watched, chromium, sync_api
from tests.check.console_fleet import ConsoleFleet, console_fleet

expect = sync_api.expect
Open = Callable[..., Any]
SAMPLE_DOCUMENTS = 12
DAWN_S = 1796083200.0  # 2026-12-01T00:00:00Z
EXPERIMENTS = {
    "size": {
        "control": "large",
        "arms": {
            "large": {"weight": 60, "model": "large"},
            "small": {"weight": 30, "model": "small"},
            "both": {"weight": 10, "cascade": {"first": "small", "second": "large", "candidates": 20}},
        },
        "schedule": [{"at": "2126-12-02T09:00:00+01:00", "weights": {"small": 60}}],
    },
    "paused": {"stopped": True, "unit": "session", "arms": {"control": {"weight": 1}, "new": {"weight": 1}}},
    "larger": {
        "mode": "shadow",
        "unit": "query",
        "arms": {"none": {"weight": 90}, "large": {"weight": 10, "model": "large"}},
    },
}
REASON = "50.0% of 80 requests failed, and 0.0% of 1,200 of the control's; 1.00% more are allowed"
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></textarea></pre>{{7*7}}'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def shared_fleet(browser: Any) -> Iterator[ConsoleFleet]:
    with console_fleet() as fleet:
        yield fleet


@pytest.fixture
def fleet(shared_fleet: ConsoleFleet) -> Iterator[ConsoleFleet]:
    yield shared_fleet
    shared_fleet.group.fault, shared_fleet.group.held, shared_fleet.key = None, False, None
    shared_fleet.board = Board()


@pytest.fixture
def open_page(browser: Any, fleet: ConsoleFleet) -> Iterator[Open]:
    """open_page(address, **options of the context): a page; when the test ends, it is checked as `Watched` says."""
    opened: list[Watched] = []

    def open_one(address: str = "", url: str = fleet.url, **options: Any) -> Any:
        opened.append(Watched(browser, url, **options))
        return opened[-1].open(address)

    yield open_one
    for each in opened:
        each.close()


def ranked(page: Any) -> Any:
    """The page, once every tier and `auto` have answered, and it is known what every budget gets."""
    expect(page.locator(".column ol")).to_have_count(5)
    expect(page.locator(".offers button").first).to_be_visible()
    return page


def order(page: Any, column: str) -> list[int]:
    buttons = page.locator(f'button[data-column="{column}"]')
    return [int(index) for index in buttons.evaluate_all("all => all.map(each => each.dataset.index)")]


def body_on(page: Any) -> dict[str, Any]:
    """The request on the page, read from its curl code."""
    page.get_by_role("tab", name="curl").click()
    return json.loads(re.search(r" -d '(.*)'$", page.locator("pre").inner_text(), re.DOTALL)[1].replace("'\\''", "'"))


def test_a_fresh_user_sees_which_tier_answered_and_why(open_page: Open) -> None:
    page = ranked(open_page())
    expect(page.locator(".answer")).to_contain_text(
        re.compile(r"auto answered with large in .* of 200 ms: large ranks")
    )
    expect(page.locator(".says")).to_contain_text("With 200 ms, auto would answer with large")
    expect(page.locator("budget-offers .other")).to_have_text(
        re.compile(r"^Under \d+ ms, medium would answer; more time would change nothing\.$")
    )
    offers = page.locator(".offers button").all_inner_texts()
    assert [re.sub(r"\s+", " ", text).split(" from ")[0].split(" under ")[0] for text in offers][-2:] == [
        "medium",
        "large",
    ]


def test_every_column_has_the_ranking_of_its_tier(open_page: Open, fleet: ConsoleFleet) -> None:
    page = ranked(open_page())
    body = body_on(page)
    assert len(body["documents"]) == SAMPLE_DOCUMENTS
    assert order(page, "sent") == [*range(SAMPLE_DOCUMENTS)]
    for tier in ("small", "medium", "large"):
        reply = httpx.post(f"{fleet.url}/v1/rerank", json=body | {"model": tier}, trust_env=False).json()
        assert order(page, tier) == [result["index"] for result in reply["results"]]
    assert order(page, "small") != order(page, "large"), "the sample shows no difference between tiers"
    assert page.locator(".moves").count() == 4
    assert page.locator(".moves").first.locator("path").count() == SAMPLE_DOCUMENTS


def test_a_tighter_budget_changes_plan_and_answer_at_once(open_page: Open) -> None:
    page = ranked(open_page())
    slider = page.get_by_role("slider", name="Budget")
    slider.focus()
    slider.press("Home")
    expect(page.locator(".says")).to_contain_text("auto would answer with the order as given")
    expect(page.locator("plan-table")).to_contain_text(re.compile(r"too slow by \d+ ms"))
    expect(page.locator(".answer")).to_contain_text("auto answered with the order as given")
    slider.press("End")
    expect(page.locator(".says")).to_contain_text("auto would answer with large")
    expect(page.locator(".answer")).to_contain_text("auto answered with large")


def test_an_offer_sets_its_budget(open_page: Open) -> None:
    page = ranked(open_page())
    for number in range(page.locator(".offers button").count()):
        offer = page.locator(".offers button").nth(number)
        offer.click()
        expect(offer).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".says")).to_contain_text("would answer with large")
    page.locator(".offers button").first.click()
    expect(page.locator(".says")).to_contain_text("would answer with the order as given")
    expect(page.locator("budget-offers .other")).to_contain_text("Less time would change nothing; from")


def test_the_other_plans_show_when_asked_for(open_page: Open) -> None:
    page = ranked(open_page())
    expect(page.locator("plan-table tbody tr")).to_have_count(3)
    page.get_by_role("button", name=re.compile("Show .* more: cascades")).click()
    expect(page.locator("plan-table")).to_contain_text("large on the best 5 by small")


def test_the_board_is_used_with_the_keyboard(open_page: Open) -> None:
    page = ranked(open_page())
    first = page.locator('button[data-column="sent"][data-index="0"]')
    first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("[document.activeElement.dataset.column, document.activeElement.dataset.index]")
    assert focused == ["small", "1"]
    page.keyboard.press("Enter")
    expect(page.locator("document-detail")).to_contain_text("Vitamin C is lost when foods are boiled for long")
    assert page.locator("button.selected").count() == 5
    expect(page.locator("document-detail tbody tr")).to_have_count(5)


def test_ctrl_enter_ranks_what_was_typed(open_page: Open) -> None:
    page = ranked(open_page())
    page.get_by_label("Query").fill("a cat")
    page.locator("#documents").fill("a dog\n\n  a cat on a mat  \n")
    expect(page.locator("#documents-read")).to_contain_text("2 documents, one a line")
    expect(page.locator(".answer")).to_contain_text("The request has changed since")
    page.locator("#documents").press("Control+Enter")
    expect(page.locator('button[data-column="large"]')).to_have_count(2)
    assert order(page, "large")[0] == 1
    assert body_on(page)["documents"] == ["a dog", "a cat on a mat"]


@pytest.mark.parametrize(
    ("text", "read", "documents"),
    [
        ('["one", {"text": "two", "id": 7}]', "2 documents, JSON", ["one", {"text": "two", "id": 7}]),
        ('{"text": "one"}\n{"text": "two"}', "2 documents, JSON Lines", [{"text": "one"}, {"text": "two"}]),
        ("[1] one\n[2] two", "read as one document a line", ["[1] one", "[2] two"]),
        ("[1, 2]", "its items are not all texts", ["[1, 2]"]),
    ],
)
def test_documents_are_read_as_they_are_pasted(open_page: Open, text: str, read: str, documents: list[Any]) -> None:
    page = ranked(open_page())
    page.locator("#documents").fill(text)
    expect(page.locator("#documents-read")).to_contain_text(read)
    assert body_on(page)["documents"] == documents


def test_without_documents_the_page_says_what_to_do(open_page: Open) -> None:
    page = ranked(open_page())
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("plan-panel .notice")).to_contain_text("Write a query and at least one document")
    page.get_by_role("button", name="Rank with every tier").click()
    expect(page.locator(".answer")).to_contain_text("Nothing is ranked yet")
    page.get_by_role("button", name="Use the sample").click()
    ranked(page)


def test_while_it_waits_the_page_says_so(open_page: Open, fleet: ConsoleFleet) -> None:
    fleet.group.held = True
    page = open_page()
    expect(page.locator(".answer .waiting")).to_be_visible()
    expect(page.locator('.column[aria-busy="true"]')).to_have_count(4)
    fleet.group.held = False
    ranked(page)


def test_many_documents_show_when_asked_for(open_page: Open) -> None:
    page = ranked(open_page())
    page.locator("#documents").fill("\n".join(f"document {i} is about a cat" for i in range(40)))
    page.get_by_role("button", name="Rank with every tier").click()
    page.get_by_role("button", name="Show all 40 documents").click()
    expect(page.locator('button[data-column="large"]')).to_have_count(40)


def test_nothing_of_a_document_is_run_as_html(open_page: Open) -> None:
    page = ranked(open_page())
    page.get_by_label("Query").fill(HOSTILE)
    page.locator("#documents").fill(f"{HOSTILE}\n{json.dumps({'text': HOSTILE})}\nplain")
    page.locator("#documents").press("Control+Enter")
    expect(page.locator('button[data-column="large"]')).to_have_count(3)
    page.locator('button[data-column="sent"][data-index="0"]').click()
    expect(page.locator("document-detail .whole")).to_have_text(HOSTILE)
    assert body_on(page)["query"] == HOSTILE
    shared = open_page(page.evaluate("location.hash"))
    expect(shared.locator('button[data-column="large"]')).to_have_count(3)
    for each in (page, shared):
        assert each.evaluate("window.hacked") is None
        assert each.locator("main img, main script, main style").count() == 0


def test_a_link_holds_the_request(open_page: Open) -> None:
    page = ranked(open_page())
    assert page.evaluate("location.hash") == "#/try", "the sample needs no link"
    page.get_by_label("Query").fill("naïve café 速い 😀?")
    page.get_by_label("Budget in milliseconds").fill("35")
    page.get_by_label("Their order").select_option("unordered")
    page.get_by_label("Query").press("Control+Enter")
    expect(page.locator(".says")).to_contain_text("With 35 ms")
    page.get_by_role("button", name="Copy a link to this request").click()
    expect(page.locator(".link .note")).not_to_be_empty()  # once the address holds the request
    shared = ranked(open_page(page.evaluate("location.hash")))
    assert body_on(shared) == body_on(page)
    assert (body_on(shared)["query"], body_on(shared)["slo_ms"]) == ("naïve café 速い 😀?", 35)


@pytest.mark.parametrize("address", ["#/try/nonsense", "#/try/S0osSwUA", "#/try/!!", "#/elsewhere/x"])
def test_a_broken_link_shows_the_sample(open_page: Open, address: str) -> None:
    page = ranked(open_page(address))
    if address.startswith("#/try/"):
        expect(page.get_by_role("alert")).to_contain_text("no request that can be read")
    assert page.get_by_label("Query").input_value() == "Which foods are rich in vitamin C?"


def test_the_code_runs(open_page: Open) -> None:
    page = ranked(open_page())
    page.get_by_label("Query").fill('it\'s a "cat" \\ $HOME `id`')
    page.locator("#documents").fill('["it\'s a cat", {"text": "two\\nlines \\"q\\" 😀", "ok": true, "none": null}]')
    if shutil.which("curl"):
        page.get_by_role("tab", name="curl").click()
        done = subprocess.run(
            ["bash", "-c", page.locator("pre").inner_text()], capture_output=True, text=True, timeout=60
        )
        assert len(json.loads(done.stdout)["results"]) == 2, done.stderr
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_have_attribute("aria-selected", "true")
    code = page.locator("pre").inner_text().replace("httpx.post(", "httpx.Client(trust_env=False).post(")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "it's a cat" in done.stdout, done.stderr
    assert "ranks best" in done.stdout
    page.get_by_role("tab", name="LangChain").click()
    compile(page.locator("pre").inner_text(), "langchain", "exec")


def test_a_key_is_asked_for_and_kept_for_the_session_only(open_page: Open, fleet: ConsoleFleet) -> None:
    fleet.key = "right"
    page = open_page()
    dialog = page.get_by_role("dialog", name="This server wants an API key")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_label("API key").press("Enter")
    expect(dialog).to_contain_text("not accepted")
    dialog.get_by_label("API key").fill("right")
    dialog.get_by_role("button", name="Use this key").click()
    ranked(page)
    assert page.evaluate("[JSON.stringify(sessionStorage), localStorage.length, document.cookie]") == [
        '{"rankfleet-api-key":"right"}',
        *(0, ""),
    ]
    expect(page.locator("pre")).to_contain_text("Bearer $RANKFLEET_API_KEY")
    assert "right" not in page.locator("pre").inner_text()
    page.get_by_role("button", name="Forget the API key").click()
    assert page.evaluate("sessionStorage.length") == 0
    expect(open_page().get_by_role("dialog")).to_be_visible()


def test_without_a_key_the_page_says_what_is_missing(open_page: Open, fleet: ConsoleFleet) -> None:
    fleet.key = "right"
    page = open_page()
    page.get_by_role("button", name="Not now").click()
    expect(page.get_by_role("alert").first).to_contain_text("this server wants an API key")
    page.get_by_role("button", name="Try again").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()


def test_a_dead_replica_is_told_in_words_and_can_be_retried(open_page: Open, fleet: ConsoleFleet) -> None:
    fleet.group.fault = Unavailable("no replica of group demo answers; retry shortly")
    page = open_page()
    expect(page.locator(".answer .error")).to_contain_text("no replica of group demo answers")
    expect(page.locator(".column .error")).to_have_count(4)
    fleet.group.fault = None
    page.locator(".answer").get_by_role("button", name="Try again").click()
    ranked(page)


def test_a_router_that_is_gone_is_told_in_words(open_page: Open) -> None:
    page = ranked(open_page())
    page.context.set_offline(True)
    page.get_by_role("button", name="Rank with every tier").click()
    expect(page.locator(".answer .error")).to_contain_text("does not answer. See whether it still runs")
    page.context.set_offline(False)
    page.locator(".answer").get_by_role("button", name="Try again").click()
    ranked(page)


def test_a_refused_request_says_why(open_page: Open) -> None:
    strict = {"strict": {"slo_ms": 50, "when_none_fits": "refuse"}}
    with console_fleet(slo_classes=strict, default_slo_class="strict") as fleet:
        page = ranked(open_page(url=fleet.url))
        page.get_by_label("Budget in milliseconds").fill("1")
        page.get_by_label("Budget in milliseconds").press("Enter")
        expect(page.locator(".says")).to_contain_text("the request would be refused")
        expect(page.locator(".answer .error")).to_contain_text("even on an idle fleet")
        expect(page.locator(".offers button").first).to_contain_text("refused")


def test_a_fleet_under_load_answers_with_less_and_says_so(open_page: Open, fleet: ConsoleFleet) -> None:
    page = ranked(open_page())
    ledger, now = fleet.service.fleet.ledgers["demo"], fleet.service.clock()
    chunks = [Entry(1.0, now + 0.1, now) for _ in range(500)]  # half a second of small, urgent work
    for chunk in chunks:
        ledger.open(chunk, now)
    try:
        page.get_by_label("Budget in milliseconds").fill("150")
        expect(page.locator(".says")).to_contain_text("With 150 ms, auto would answer with the order as given")
        expect(page.locator(".says")).to_contain_text("no tier fits 150 ms")
    finally:
        for chunk in chunks:
            ledger.close(chunk, now)


def test_the_fleet_shows_tiers_replicas_and_decisions(open_page: Open) -> None:
    page = ranked(open_page())
    page.get_by_role("link", name="Fleet", exact=True).click()
    expect(page.get_by_role("link", name="Fleet", exact=True)).to_have_attribute("aria-current", "page")
    expect(page.locator("plan-plot svg")).to_have_attribute("aria-label", re.compile(r"small .*, quality 0\.\d{3}"))
    expect(page.locator("recent-requests")).to_contain_text("of those with a budget in time")
    expect(page.locator("decision-list tbody tr").first).to_contain_text("is asked for by name")
    page.get_by_role("link", name="Try it").click()
    ranked(page)


def test_the_fleet_shows_load_and_an_ejected_replica_as_they_come(open_page: Open) -> None:
    with console_fleet() as fleet:
        ledger = fleet.service.fleet.ledgers["demo"]
        ledger.update(frozenset({"r1", "r2"}))
        page = open_page("#/fleet", url=fleet.url)
        expect(page.locator("group-table tbody tr")).to_have_count(2)
        expect(page.locator("decision-list")).to_contain_text("No request has been answered yet")
        entry = Entry(2500.0, math.inf, fleet.service.clock())
        ledger.open(entry, fleet.service.clock())
        ledger.place(entry, "r1", fleet.service.clock())
        ledger.eject("r2", fleet.service.clock())
        expect(page.locator("group-table tbody tr").nth(1)).to_contain_text("ejected: it lost or failed work")
        expect(page.locator("group-table tbody tr").nth(0)).to_contain_text("takes work1")


def test_the_fleet_shows_why_a_group_has_its_replicas(open_page: Open, fleet: ConsoleFleet) -> None:
    page = open_page("#/fleet")
    scaling = page.locator(".scaling li")
    expect(scaling).to_have_text("demo: the autoscaler has not been heard of yet.")
    now = GroupBoard("steady", "enough for the load: need 1.60 replicas", 2, 1)
    fleet.board = Board({"demo": now})
    expect(scaling).to_contain_text("demo: 1 of 2 replicas running, and the fleet file allows 1 to 2.")
    expect(scaling).to_contain_text("Now: enough for the load: need 1.60 replicas.")
    expect(scaling).to_contain_text("Not scaled since Serve's controller started.")
    fleet.board = Board({"demo": replace(now, last_change=Change(1, 12.4, 1, 2, "a surge: need 1.80 replicas"))})
    expect(scaling).to_contain_text("Scaled 1 → 2, 12 s ago: a surge: need 1.80 replicas.")
    fleet.board = Board({"demo": GroupBoard("fixed", "the fleet file sets one number", 1, 1)})
    expect(scaling).to_have_text("demo: 1 of 1 replica running; the fleet file sets one number.")


def test_behind_several_routers_one_is_shown_and_another_can_be_chosen(open_page: Open, fleet: ConsoleFleet) -> None:
    page = open_page("#/fleet")
    expect(page.locator(".routers")).to_contain_text("As router router-1 knows it")
    expect(page.locator(".routers button")).to_have_count(0)

    def by_another(route: Any) -> None:
        fleet_json = route.fetch().json()
        answer = {"tier": "small", "reason": "by the other", "quality": 0.4, "predicted_ms": 5.0, "age_s": 1.0}
        decisions = [answer | {"budget_ms": 10.0, "total_ms": 4.0, "met": True}]
        route.fulfill(json=fleet_json | {"router": "router-2", "decisions": decisions})

    page.route("**/v1/fleet", by_another, times=2)
    other = page.get_by_role("button", name="router-2")
    expect(other).to_have_attribute("aria-pressed", "false")
    expect(page.locator("decision-list")).not_to_contain_text("by the other")
    other.click()
    expect(page.locator("decision-list")).to_contain_text("by the other")
    expect(page.locator(".routers")).to_contain_text("As router router-2 knows it")


def test_who_gives_no_key_is_not_asked_again_and_again(open_page: Open, fleet: ConsoleFleet) -> None:
    fleet.key = "right"
    page = open_page("#/fleet")
    page.wait_for_timeout(2500)  # more than one period, in which the page would ask again
    page.get_by_role("button", name="Not now").click()
    expect(page.locator("fleet-view .error")).to_contain_text("this server wants an API key")
    page.wait_for_timeout(2500)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("textbox", name="API key").fill("right")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("group-table")).to_be_visible()


def test_a_fleet_that_does_not_answer_is_told_in_words(open_page: Open) -> None:
    page = open_page("#/fleet")
    expect(page.locator("group-table")).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator("fleet-view .error")).to_contain_text("does not answer. See whether it still runs")
    page.context.set_offline(False)
    expect(page.locator("group-table")).to_be_visible()


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_axe_finds_no_violation_in_the_fleet(open_page: Open, fleet: ConsoleFleet, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = ranked(open_page(viewport={"width": width, "height": 844}, color_scheme=scheme))
    change = Change(1, 12.4, 1, 2, "a surge: need 1.80 replicas")
    fleet.board = Board({"demo": GroupBoard("steady", "enough for the load: need 1.60 replicas", 2, 1, change)})
    page.get_by_role("link", name="Fleet", exact=True).click()
    expect(page.locator("decision-list tbody tr").first).to_be_visible()
    expect(page.locator(".scaling")).to_contain_text("12 s ago")
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


@pytest.fixture(scope="module")
def experiment_fleet(browser: Any) -> Iterator[ConsoleFleet]:
    with console_fleet(experiments=EXPERIMENTS) as fleet:
        yield fleet


def with_counts(fleet: ConsoleFleet, stopped: dict[str, str]) -> None:
    """The routers have counted requests of `size`. stopped: by arm, the reason."""
    counts = {"large": (1200, 0, 1000, 10, 0, 0), "small": (80, 40, 40, 10, 0, 0)}
    identity = fleet.service.config.experiments["size"].identity("size")
    fleet.states[identity] = ExperimentState(stopped, None, DAWN_S, counts)


def test_the_fleet_shows_experiments_as_they_change(open_page: Open, experiment_fleet: ConsoleFleet) -> None:
    experiment_fleet.states.clear()
    page = open_page("#/fleet", url=experiment_fleet.url)
    size = page.get_by_role("region", name="Experiment size")
    expect(size).to_contain_text("Split by user. Nothing has been counted yet.")
    expect(size.locator("tbody tr")).to_have_text(
        ["large controllarge60%00–", "smallsmall30%00–", re.compile("^bothsmall, then")]
    )
    copy = size.get_by_role("button", name="Copy the command for size")
    copy.focus()
    with_counts(experiment_fleet, {})
    expect(size.locator("tbody tr").first).to_have_text("large controllarge60%1,200099% of 1,000")
    expect(size.locator(".stopped")).to_have_count(0)
    with_counts(experiment_fleet, {"small": REASON})
    expect(size.locator(".stopped li")).to_have_text(f"small is stopped: {REASON}. Its share is answered as large.")
    expect(size.locator("tbody tr").nth(1)).to_have_text("smallsmall30% stopped8040 (50%)75% of 40")
    expect(size).to_contain_text("Counts of all routers since 2026-12-01 00:00 UTC.")
    expect(size.locator(".next")).to_have_text(
        "Next, 2126-12-02 08:00 UTC: large 60% → 46.15%, small 30% → 46.15%, both 10% → 7.69%."
    )
    widths = size.locator(".bar").evaluate_all("bars => bars.map(bar => bar.firstChild.offsetWidth / bar.offsetWidth)")
    assert widths == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    expect(copy).to_be_focused()
    expect(size.locator("code")).to_have_text("rankfleet experiment report size --config FILE")
    copy.click()
    expect(size.get_by_role("status")).not_to_be_empty()
    expect(page.get_by_role("region", name="Experiment paused")).to_contain_text("Stopped: no request takes part.")
    larger = page.get_by_role("region", name="Experiment larger")
    expect(larger).to_contain_text("Shadow, by query: compared and not answered.")
    expect(larger.locator("tbody tr")).to_have_text(["noneno change90%", "largelarge10%"])


def test_a_fleet_without_experiments_shows_none_and_their_texts_are_no_html(open_page: Open) -> None:
    page = open_page("#/fleet")
    expect(page.locator("group-table table")).to_be_visible()
    expect(page.get_by_role("heading", name="Experiments")).to_have_count(0)
    arm = {"name": HOSTILE, "changes": HOSTILE, "weight": 1, "share": 1, "stopped": HOSTILE}
    arm |= dict.fromkeys(("requests", "errors", "budgets", "met"), 1)
    experiment = {"name": HOSTILE, "mode": "split", "unit": HOSTILE, "stopped": False, "control": HOSTILE}
    experiment |= {"since_s": None, "arms": [arm], "next": {"at": "2126-12-02T00:00:00Z", "weights": {HOSTILE: 2}}}
    page.route("**/v1/fleet", lambda route: route.fulfill(json=route.fetch().json() | {"experiments": [experiment]}))
    expect(page.get_by_role("heading", name="Experiments")).to_be_visible()
    expect(page.locator("experiment-list tbody th")).to_contain_text(HOSTILE)
    expect(page.locator("experiment-list .stopped")).to_contain_text(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main style").count() == 0
    page.unroute_all(behavior="wait")


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 390), ("light", 1280), ("dark", 1280)])
def test_axe_finds_no_violation_in_experiments(
    open_page: Open, experiment_fleet: ConsoleFleet, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with_counts(experiment_fleet, {"small": REASON})
    options = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    page = open_page("#/fleet", url=experiment_fleet.url, **options)
    expect(page.locator("experiment-list .stopped")).to_be_visible()
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_has_no_violation_that_axe_finds(open_page: Open, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = ranked(open_page(viewport={"width": width, "height": 844}, color_scheme=scheme))
    page.locator('button[data-column="large"]').first.click()
    page.get_by_role("button", name=re.compile("Show .* more: cascades")).click()
    page.get_by_label("Query").fill("another one")
    expect(page.locator(".answer")).to_contain_text("The request has changed since")
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
