"""What a run on a prediction service may ask and keep: budgets with everything in them, secrets, known images, advice."""

import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_service import NAMES, Service, serve
from service_runs import account, run_line, save_levels

from certify.blackbox.answers import NoAnswerError, RefusedError, ServiceError
from certify.blackbox.canary import Canaries
from certify.blackbox.forecast import size_text
from certify.blackbox.http_json import HttpJson
from certify.blackbox.images import encode_png
from certify.blackbox.rekognition import Rekognition
from certify.blackbox.secrets import expand_json, refuse_literal_secrets
from certify.blackbox.spending import Extras, inputs_within, startable
from certify.blackbox.table import build_adapter
from certify.cli import main
from certify.errors import UsageError
from certify.redaction import redact_argument, secrets_in

N0, N, INPUTS = 5, 40, 3
COST = N0 + N
SECRET = "sk-7f3a9c0d5e"


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as running:
        yield running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return save_levels(tmp_path / "toy.npz", (40, 130, 220))


def command(service: Service, data: Path, out: Path, *more: str, estimator: bool = False) -> list[str]:
    return run_line(service, data, out, "--no-preflight", *more, n0=None if estimator else N0, n=N)


def open_endpoint(service: Service, data: Path, out: Path, *more: str) -> list[str]:
    """A command for an endpoint that reports no version, and wants no key."""
    return [
        *("run", f"{service.url}/hf", "--adapter", "hf-endpoint", "--service", "key_variable="),
        *("--class-names", ",".join(NAMES), "--data", str(data), "--num-classes", "3", "--noise", "gaussian"),
        *("--sigma", "0.25", "--n0", str(N0), "--n", str(N), "--quiet", "--no-preflight", "--out", str(out), *more),
    ]


def finished(folder: Path) -> int:
    return len((folder / "certificates.tsv").read_text().splitlines()) - 1


def settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["settings"]
    return {**found, **found["service"]}


def others(folder: Path) -> int:
    """Questions that are no votes, as the journal has them."""
    return account(folder).get(-2, 0)


@pytest.mark.parametrize(
    ("limits", "inputs"),
    [
        (("--max-queries", str(COST + 1)), 1),
        (("--max-queries", str(2 * COST)), 1),
        (("--max-queries", str(2 * COST + 1)), 2),
        (("--max-queries", str(3 * COST), "--canaries", "2"), 2),
        # 3 inputs, the question, and 2 images before, after the selection and after the estimation.
        (("--max-queries", str(3 * COST + 1 + 2 * 3 - 1), "--canaries", "2"), 2),
        (("--max-queries", str(3 * COST + 1 + 2 * 3), "--canaries", "2"), 3),
        (("--max-cost", "0.0901", "--price-per-1000", "1", "--yes"), 1),
        (("--max-cost", "0.091", "--price-per-1000", "1", "--yes"), 2),
    ],
)
def test_a_budget_is_a_limit_on_all_that_is_asked(
    service: Service,
    data: Path,
    tmp_path: Path,
    limits: tuple[str, ...],
    inputs: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit = int(limits[1]) if limits[0] == "--max-queries" else round(float(limits[1]) * 1000 - 0.5 + 1e-9)
    assert main(command(service, data, tmp_path / "run", *limits)) == 0, capsys.readouterr().err
    assert finished(tmp_path / "run") == inputs
    assert service.billed <= limit
    assert service.billed == inputs * COST + others(tmp_path / "run")


def test_a_budget_holds_over_starts(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.version = None
    out = tmp_path / "run"
    for limit, inputs in ((COST + 7, 1), (COST + 7, 1), (2 * COST + 13, 1), (2 * COST + 14, 2), (3 * COST + 99, 3)):
        assert main(command(service, data, out, "--canaries", "2", "--max-queries", str(limit))) == 0
        assert finished(out) == inputs, capsys.readouterr().err
        assert service.billed <= limit
    assert service.billed == 3 * COST + others(out)
    assert others(out) == 3 * (1 + 2 * 3), "each start that asks for votes asks one question, and watches again"
    assert main(["audit", str(out)]) == 0, capsys.readouterr().out


def test_a_run_that_its_budget_ends_says_so(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--max-queries", str(COST + 1))
    said = "the budget sufficed for 1 of 3 inputs; repeat the line with a larger --max-queries to go on"
    assert main(command(service, data, tmp_path / "run", *small)) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(command(service, data, tmp_path / "run", *small, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ended_by_budget"] == said
    assert (found["inputs"], found["inputs_planned"]) == (1, 3)
    assert main(command(service, data, tmp_path / "run", "--json", "--max-queries", "1000")) == 0
    assert json.loads(capsys.readouterr().out)["ended_by_budget"] is None


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        (("--n0", "5", "--n", "40", "--max-queries", "10"), "or lower --n to 4 or less"),
        (("--n0", "5", "--n", "40", "--max-queries", "45", "--canaries", "2"), "or lower --n to 33 or less"),
        (("--n0", "5", "--n", "40", "--max-queries", "3"), "raise --max-queries or --max-cost"),
        (("--estimator", "sequential", "--cap", "500", "--max-queries", "100"), "or lower --cap to 99 or less"),
        (
            ("--estimator", "planned", "--pilot", "30", "--cap", "90", "--max-queries", "100"),
            "lower --cap to 69 or less",
        ),
    ],
)
def test_advice_for_a_budget_that_is_too_small(
    service: Service,
    data: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    advice: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(service, data, tmp_path / "run", *more, estimator=True)) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "too small for one input" in error
    assert error.endswith(advice)
    assert not (tmp_path / "run").exists()
    assert service.billed == 0
    lower = re.search(r"lower (--\w+) to (\d+)", error)
    if lower is not None:
        # What is advised works, and one more does not.
        fits = list(more)
        fits[fits.index(lower[1]) + 1] = lower[2]
        arguments = [a for a in command(service, data, tmp_path / "run", *fits, estimator=True) if a != "--quiet"]
        where = arguments.index("--out")
        del arguments[where : where + 2]
        assert main(["plan", *arguments[1:], "--json"]) in (0, 2)  # 2: so few votes prove nothing
        assert "too small for one input" not in capsys.readouterr().err


def test_known_images_are_watched_where_no_version_is_reported(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(open_endpoint(service, data, out)) == 0
    assert settings(out)["canaries"] == INPUTS, "five, or as many as there are images"
    assert settings(out)["warnings"] == []
    assert "warning" not in capsys.readouterr().err
    assert service.billed == INPUTS * COST + 1 + 3 * INPUTS
    assert main(open_endpoint(service, data, out, "--canaries", "2")) == 2
    assert "this run is watched by 3 known images, got --canaries 2" in capsys.readouterr().err
    # The one that reports a version is watched by it.
    assert main(command(service, data, tmp_path / "versions")) == 0
    assert settings(tmp_path / "versions")["canaries"] == 0
    assert settings(tmp_path / "versions")["warnings"] == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--canaries", "0"), "reports no version, and --canaries 0 has switched off"),
        (("--max-queries", str(COST + 1)), "reports no version, and the budget has no room for known images"),
    ],
)
def test_what_is_not_watched_is_said(
    service: Service,
    data: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    assert main(open_endpoint(service, data, out, *more)) == 0
    assert why in capsys.readouterr().err
    assert settings(out)["canaries"] == 0
    [warning] = settings(out)["warnings"]
    assert why in warning
    # A run that was begun so goes on so: what nobody watched cannot be vouched for afterwards.
    assert main(open_endpoint(service, data, out)) == 0
    assert settings(out)["canaries"] == 0
    assert "begun without known images" in settings(out)["warnings"][0]
    assert finished(out) == INPUTS


def test_a_random_service_is_not_watched(service: Service, data: Path, tmp_path: Path) -> None:
    assert main(open_endpoint(service, data, tmp_path / "run", "--random-service")) == 0
    assert settings(tmp_path / "run")["canaries"] == 0
    assert settings(tmp_path / "run")["warnings"] == []


def test_the_clock_of_the_canaries_keeps_to_the_budget() -> None:
    now, room = [0.0], [False]
    canaries = Canaries(np.zeros((1, 8, 8, 1), np.uint8), every=10, clock=lambda: now[0], room=lambda: room[0])
    assert canaries.due, "the first check is always made"
    assert canaries.compare(["0"])
    now[0] += 11
    assert not canaries.due
    room[0] = True
    assert canaries.due
    assert canaries.compare(["0"])
    now[0] += 9
    assert not canaries.due
    assert not canaries.compare(["1"]), "a check that is made compares, whatever the clock"


def test_what_is_asked_beside_votes_is_reserved() -> None:
    extras = Extras(questions=1, canaries=5, looks=2, width=8, votes_per_check=100.0)
    assert extras.queries(0, 0) == 0
    assert extras.queries(8, 99) == 1 + 5 * (1 + 2)
    assert extras.queries(9, 250) == 1 + 5 * (1 + 4 + 2)
    for limit in range(300):
        inputs = inputs_within(extras, 30, limit, 20)
        assert inputs == len(startable(extras, [(i, 30) for i in range(20)], limit))
        assert inputs * 30 + extras.queries(inputs, inputs * 30) <= limit


HEADERS = "headers=Authorization=Bearer {}"


@pytest.mark.parametrize(
    ("address", "option"),
    [
        ("{url}", HEADERS.format(SECRET)),
        ("{url}", f"headers=X-Api-Key={SECRET}"),
        ("{url}", f"headers=X-Session=Basic {SECRET}"),
        ("http://user:" + SECRET + "@{host}", None),
        ("{url}/?api_key=" + SECRET, None),
        ("{url}/?a=1&token=" + SECRET, None),
    ],
)
def test_a_literal_secret_is_refused(
    service: Service,
    data: Path,
    tmp_path: Path,
    address: str,
    option: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command(service, data, tmp_path / "run")
    arguments[1] = address.format(url=service.url, host=service.url.removeprefix("http://"))
    if option is not None:
        arguments += ["--service", option]
    assert main(arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "${NAME}" in error
    assert "environment" in error
    assert SECRET not in error
    assert not (tmp_path / "run").exists()
    assert service.requests == 0


def test_every_adapter_refuses_literal_secrets(tmp_path: Path) -> None:
    file = tmp_path / "api.toml"
    file.write_text(f'url = "http://x/?key={SECRET}"\nraw = true\nlabel = "a"\n')
    cases: list[tuple[str, str, dict[str, str]]] = [
        ("http-json", "", {"file": str(file)}),
        ("openai-chat", f"http://x/v1?key={SECRET}", {"model": "m"}),
        ("openai-chat", f"http://:{SECRET}@x/v1", {"model": "m"}),
        ("hf-endpoint", f"http://x/?token={SECRET}", {}),
        ("rekognition", f"http://a:{SECRET}@x", {}),
        ("oip", "http://x", {"model": "m", "headers": f"A=1;Cookie={SECRET}"}),
    ]
    for name, url, options in cases:
        with pytest.raises(UsageError, match="NAME") as found:
            build_adapter(name, url, options, NAMES)
        assert SECRET not in str(found.value)
    build_adapter("oip", "http://x", {"model": "m", "headers": "Authorization=Bearer ${KEY};X-Team=a"})
    build_adapter("hf-endpoint", "http://x/?token=${KEY}&design=b", {})


ISSUED = "sk-proj-7f3a9c0d5e7f3a9c0d5e"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
SECRETS: list[tuple[Any, str]] = [
    ({"api_key": "hunter2"}, "body.api_key"),
    ({"apiKey": "hunter2"}, "body.apiKey"),
    ({"auth": {"password": "hunter2"}}, "body.auth.password"),
    ({"inputs": [{"Authorization": "anything"}]}, "body.inputs[0].Authorization"),
    ({"key": "7f3a9c0d5e7f"}, "body.key"),
    ({"user_token": "7f3a9c0d5e7f"}, "body.user_token"),
    ({"note": ISSUED}, "body.note"),
    ({"prompt": f"Use {ISSUED} and say what this is."}, "body.prompt"),
    ({"x": JWT}, "body.x"),
    ({"x": "hf_abcdefghijklmnopqrst"}, "body.x"),
    ({"x": "AKIAIOSFODNN7EXAMPLE"}, "body.x"),
    ({"fields": [{"name": "h", "value": "Bearer 7f3a9c0d5e7f"}]}, "body.fields[0].value"),
    ({"callback": "https://me:hunter2@example.com/x"}, "body.callback"),
    ({"callback": "https://example.com/x?api_key=hunter2"}, "body.callback"),
]
ORDINARY: list[Any] = [
    {"api_key": "${NAME}", "prompt": "What is this?"},
    {"authorization": "Bearer ${NAME}", "callback": "https://example.com/x?key=${NAME}"},
    {"image_key": "{{other}}", "password": "", "secret": None, "token": 17},
    {"max_tokens": 12, "tokenizer": "bert-base-uncased-v2", "keywords": "dog2000, cat", "key": "image", "token": "<s>"},
    {"language_code": "en-US-x-2000-abc", "model": "gpt-4o-mini-2024-07-18", "id": "0123456789abcdef0123456789abcdef"},
    {"prompt": "Basic description of the image in 12 words; the key is the object, the token of trust its colour."},
    {"prompt": "Token", "style": "Basic description", "kind": "bearer dog"},
    {"prompt": "See https://example.com/?key=abc for the labels, or mail me@example.com."},
    {"callback": "https://example.com/v1/labels?design=b&size=3"},
    {"signature_name": "serving_default", "signature": "serving_default", "auth": "none"},
]


@pytest.mark.parametrize(("body", "where"), SECRETS)
def test_a_literal_secret_in_a_body_is_refused(tmp_path: Path, body: Any, where: str) -> None:
    adapter = HttpJson("http://x", body={**body, "image": "{{png_base64}}"}, label="a")
    assert list(secrets_in(adapter.body)) == [where]
    with pytest.raises(UsageError, match="NAME") as found:
        refuse_literal_secrets(None, (), adapter.body)
    assert f"{where} looks like a secret" in str(found.value)
    assert not any(text in str(found.value) for text in ("hunter2", "7f3a", ISSUED, JWT, "AKIA", "hf_"))


@pytest.mark.parametrize("body", ORDINARY)
def test_ordinary_bodies_are_none(body: Any) -> None:
    assert list(secrets_in({**body, "image": "data:image/png;base64,{{png_base64}}"})) == []


def test_the_base64_of_images_is_no_secret() -> None:
    """Bodies may hold reference images: a hundred of random pixels, whose base64 holds most things somewhere."""
    pixels = np.random.default_rng(0)
    for _ in range(100):
        text = base64.b64encode(encode_png(pixels.integers(0, 256, (32, 32, 3)).astype(np.uint8))).decode()
        bodies = [{"reference": text}, {"examples": [f"data:image/png;base64,{text}"]}, {"prompt": f"Like {text}?"}]
        assert [where for body in bodies for where in secrets_in(body)] == []
    inside = f"abc{'AIza' + 'b' * 35}+/{'AKIAIOSFODNN7EXAMPLE'}zz=="
    assert list(secrets_in({"reference": inside})) == [], "it does not stand alone"


def test_a_body_takes_its_secret_from_the_environment(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Watching(HttpJson):
        async def ask(self, client: Any, prepared: Any) -> Any:
            seen.append(expand_json(prepared[0]).decode())
            return await super().ask(client, prepared)

    file = tmp_path / "api.toml"
    text = (
        f'url = "{service.url}/json"\nlabel = "results[0].name"\nversion = "model.version"\n'
        'body = { image = "{{png_base64}}", api_key = "SECRET" }\n'
    )
    line = [
        *("run", f"{service.url}/json", "--adapter", "http-json", "--service", f"file={file}"),
        *("--class-names", ",".join(NAMES), "--data", str(data), "--num-classes", "3", "--noise", "gaussian"),
        *("--sigma", "0.25", "--n0", "2", "--n", "20", "--max", "1", "--quiet", "--no-preflight"),
        *("--out", str(tmp_path / "run")),
    ]
    file.write_text(text.replace("SECRET", SECRET))
    assert main(line) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "body.api_key looks like a secret" in error
    assert SECRET not in error
    file.write_text(text.replace("SECRET", "${TEST_KEY}"))
    assert main(line) == 2
    assert "the environment variable TEST_KEY is not set" in capsys.readouterr().err
    assert service.requests == 0
    monkeypatch.setenv("TEST_KEY", f'{SECRET}"\\n')  # whatever JSON has to escape
    monkeypatch.setattr("certify.blackbox.table.HttpJson", Watching)
    assert main(line) == 0, capsys.readouterr().err
    assert {json.loads(body)["api_key"] for body in seen} == {f'{SECRET}"\\n'}
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_no_file_of_a_run_holds_a_secret(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", SECRET)
    # The second line of defence: a command that was refused, were it not, would be kept without what it should not hold.
    monkeypatch.setattr(
        sys, "argv", ["certify", "run", f"http://me:{SECRET}@host/?key={SECRET}", "--service", HEADERS.format(SECRET)]
    )
    more = ("--service", HEADERS.format("${TEST_KEY}"), "--record", str(tmp_path / "run" / "log.jsonl"))
    assert main(command(service, data, tmp_path / "run", *more)) == 0, capsys.readouterr().err
    assert service.keys == {f"Bearer {SECRET}"}
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.json", "journal.sqlite", "log.jsonl"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert settings(tmp_path / "run")["command"][2] == "http://<hidden>@host/?key=<hidden>"
    assert redact_argument("headers=A=1;X-Key=abc;B=${C}") == "headers=A=1;X-Key=<hidden>;B=${C}"
    assert redact_argument("--noise") == "--noise"


@pytest.mark.parametrize(
    "more", [("--canaries", "2"), ("--rate", "3"), ("--timeout", "3"), ("--concurrency", "2"), ("--random-service",)]
)
def test_options_of_services_need_one(
    data: Path, tmp_path: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "plan"):
        out = ["--out", str(tmp_path / "run")] if name == "run" else []
        assert main([name, "models/mine", "--data", str(data), *out, *more]) == 2
        assert f"{more[0]}: for a prediction service alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_service_owes_no_account_of_its_training(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(service, data, tmp_path / "run")) == 0
    assert "trained" not in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "run"), "--replay", "1"]) == 2
    assert "without asking (and paying); audit recounts its recorded answers" in capsys.readouterr().err


def test_a_call_that_takes_too_long_is_made_again(
    service: Service, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fault = lambda number, images: "late" if number == 4 else None
    more = ("--timeout", "1.5", "--concurrency", "1", "--indices", "1")
    assert main(command(service, data, tmp_path / "run", *more)) == 0, capsys.readouterr().err
    service.released.set()
    assert service.billed == COST + 1 + 4, "the call that was too late was answered twice, and counted once"
    assert main(["audit", str(tmp_path / "run")]) == 0, capsys.readouterr().out
    assert main(command(service, data, tmp_path / "run", "--timeout", "0")) == 2
    assert "timeout must be positive" in capsys.readouterr().err


def plan_of(service: Service, data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    arguments = [a for a in command(service, data, Path("unused"), *more) if a not in ("--quiet", "--out", "unused")]
    assert main(["plan", *arguments[1:], "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_plan_counts_everything(service: Service, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    price = ("--price-per-1000", "10")
    found = plan_of(service, data, capsys, "--max-queries", str(3 * COST), "--canaries", "2", *price)
    assert found["inputs_within_budget"] == 2
    assert (found["question_queries"], found["canary_queries"]) == (1, 6)
    assert found["total_queries"] == 2 * COST + 7
    assert found["cost"] == pytest.approx((2 * COST + 7) / 100)
    assert plan_of(service, data, capsys, *price)["question_queries"] == 0, "not asked where nobody has allowed it"
    found = plan_of(service, data, capsys)
    assert (found["canary_queries"], found["watching_queries_if_unversioned"]) == (0, 3 * INPUTS)
    arguments = command(service, data, Path("unused"), "--canaries", "2", "--rate", "0.5")
    assert main(["plan", *[a for a in arguments[1:] if a not in ("--quiet", "--out", "unused")]]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "135 votes, 1 before the first vote, 6 about 2 known images; 142 queries, about" in text
    assert "kB to upload" in text
    assert "time at least 1 min 22 s at the rate limit" in text, "34 calls of 4 images (rounded up by the 7 others)"
    assert service.requests == 0


def test_plan_measures_what_is_sent(service: Service, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def kilobytes(*more: str) -> float:
        found = plan_of(service, data, capsys, *more)
        return float(found["upload_megabytes"]) * 1e3 / int(found["total_queries"])

    binary = kilobytes("--service", "binary=true")
    assert binary == pytest.approx(0.256), "8 x 8 float32"
    assert kilobytes("--service", "binary=true", "--service", "datatype=UINT8") == pytest.approx(0.064)
    assert 2 * binary < kilobytes() < 6 * binary, "numbers as text"
    assert [size_text(b) for b in (0, 800, 80_400, 1_234_567, 35e9)] == [
        "nothing",
        "0.8 kB",
        "80 kB",
        "1.2 MB",
        "35 GB",
    ]


PNG = np.full((80, 80, 1), 7, np.uint8)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("boto3")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def keys(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


def ask(adapter: Rekognition) -> Any:
    return adapter._ask(adapter.prepare(PNG[None]), 5.0)


@pytest.mark.usefixtures("keys")
def test_rekognition_out_of_reach_drops_no_vote() -> None:
    with pytest.raises(NoAnswerError, match="cannot connect to AWS Rekognition") as found:
        ask(Rekognition(region="us-east-1", endpoint_url="http://127.0.0.1:9"))
    assert not found.value.reached, "a question that was never seen is no invalid vote"


@pytest.mark.usefixtures("aws")
def test_rekognition_that_cannot_be_asked_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match="--service region=NAME"):
        ask(Rekognition())
    with pytest.raises(ServiceError, match="no usable credentials"):
        ask(Rekognition(region="us-east-1"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    with pytest.raises(ServiceError, match="no usable credentials"):
        ask(Rekognition(region="us-east-1"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(ServiceError, match="an option is not allowed"):
        ask(Rekognition(region="us-east-1", project_version="x"))  # an ARN has at least 20 characters


@pytest.mark.usefixtures("keys")
def test_rekognition_by_its_wire_format() -> None:
    from botocore.stub import ANY, Stubber

    arn = "arn:aws:rekognition:us-east-1:123456789012:project/p/version/v/1"
    adapter = Rekognition(region="us-east-1", project_version=arn)
    expected = {"ProjectVersionArn": arn, "Image": {"Bytes": ANY}, "MaxResults": 10, "MinConfidence": 0}
    entries = [{"Name": name, "Confidence": confidence} for name, confidence in (("b", 50.0), ("a", 50.0), ("c", 9.0))]
    with Stubber(adapter.client()) as stub:
        stub.add_response("detect_custom_labels", {"CustomLabels": entries}, expected)
        assert ask(adapter) == ("a", arn, "")
        for code, status, kind in (
            ("ThrottlingException", 400, NoAnswerError),
            ("ProvisionedThroughputExceededException", 400, NoAnswerError),
            ("InternalServerError", 500, NoAnswerError),
            ("AccessDeniedException", 400, ServiceError),
            ("ResourceNotFoundException", 400, ServiceError),
            ("InvalidImageFormatException", 400, RefusedError),
        ):
            stub.add_client_error("detect_custom_labels", code, http_status_code=status)
            with pytest.raises(kind) as found:
                ask(adapter)
            # What was turned away is on no bill; an error of the server may be.
            assert getattr(found.value, "taken", None) in (None, code == "InternalServerError")
        stub.assert_no_pending_responses()
