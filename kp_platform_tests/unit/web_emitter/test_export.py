"""The logs of a query as a file."""

import csv
import json

import pytest
from starlette.testclient import TestClient

from kp_platform_tests.unit.web_emitter.fakes import FakeLogs, enriched_log
from web_emitter.site.analysis.log_query import LogQuery
from web_emitter.site.search import Cursor


@pytest.fixture
def two(search: FakeLogs) -> None:
    search.logs = (
        enriched_log(uuid="1", uri='/a,"b"', name="=cmd()"),
        enriched_log(uuid="2", uri="/b", name="kafka"),
    )


def test_csv_has_a_header_and_no_cell_that_a_spreadsheet_executes(
    client: TestClient, two: None
) -> None:
    answer = client.get("/analysis.csv")
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [(row["uuid"], row["uri"], row["name"]) for row in rows] == [
        ("1", '/a,"b"', "'=cmd()"),
        ("2", "/b", "kafka"),
    ]
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="analysis.csv"'
    assert answer.headers["x-max-logs"] == "100000"


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_a_cell_that_begins_like_a_formula_is_quoted(
    client: TestClient, search: FakeLogs, cell: str
) -> None:
    search.logs = (enriched_log(name=cell),)
    (row,) = csv.DictReader(client.get("/analysis.csv").text.splitlines(keepends=True))
    assert row["name"] == f"'{cell}"


def test_json_and_ndjson_contain_the_documents(client: TestClient, two: None) -> None:
    whole = client.get("/analysis.json").json()
    assert whole["max_logs"] == 100_000
    lines = [json.loads(line) for line in client.get("/analysis.ndjson").text.splitlines()]
    assert whole["logs"] == lines
    assert [each["uuid"] for each in lines] == ["1", "2"]


@pytest.mark.parametrize("kind", ["csv", "json", "ndjson"])
def test_a_filter_applies_to_the_file(client: TestClient, two: None, kind: str) -> None:
    text = client.get(f"/analysis.{kind}?name=kafka").text
    assert "/b" in text
    assert "cmd" not in text


def test_a_file_without_logs_is_empty(client: TestClient) -> None:
    assert client.get("/analysis.json").json()["logs"] == []
    assert client.get("/analysis.ndjson").text == ""
    assert len(client.get("/analysis.csv").text.splitlines()) == 1


def test_an_unavailable_elasticsearch_is_a_503_and_an_invalid_link_a_400(
    client: TestClient, search: FakeLogs
) -> None:
    search.go_down()
    answer = client.get("/analysis.csv")
    assert answer.status_code == 503
    assert "http://127.0.0.1:18020" in answer.text
    assert client.get("/analysis.csv?from=x").status_code == 400
    assert client.get("/analysis.exe").status_code == 404


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_file_contains_all_logs_whatever_page_links_to_it(
    client: TestClient, two: None, search: FakeLogs, side: str
) -> None:
    token = Cursor(1, 0, 0, reach=0).token
    assert client.get(f"/analysis.csv?{side}={token}").text == client.get("/analysis.csv").text
    assert search.exported == [LogQuery(), LogQuery()]
