"""Who is let in: keys, their scopes, pages of other sites, and what everybody may see."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.app import create_app
from serve.models.repository import Repository
from serve.openapi.document import MODEL_HEADERS
from serve.pages import page_routes
from serve.settings import Settings
from serve.web.api_keys import new_key
from serve.web.gate import PROBES
from tests.serve.servers import in_process, png

Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]
PNG = {"Content-Type": "image/png"}
KEYS = {name: new_key(name, scopes) for name, scopes in (("web", ["infer"]), ("prom", ["metrics"]), ("ops", ["admin"]))}
UNLOAD = "/v2/repository/models/shades/unload"


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name][0]}"}


@pytest.fixture
def play(models_dir: Path, tmp_path: Path) -> Callable[..., None]:
    """Plays a scenario with a server that has the keys."""
    file = tmp_path / "keys"
    file.write_text("\n".join(line for _, line in KEYS.values()))

    def run(scenario: Scenario, **changes: Any) -> None:
        settings = Settings(**{"decode_threads": 1, "tile_threads": 1, "api_keys": file, **changes})

        async def main() -> None:
            async with in_process(Repository.open(models_dir, settings), settings) as client:
                await scenario(client)

        asyncio.run(main())

    return run


def test_without_a_key_there_are_probes_and_the_page_alone(play: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for path in (*PROBES, *(route.path for route in page_routes()), "/openapi.json"):
            assert (await client.get(path)).status_code == 200, path
        closed = [
            "/v1/models",
            "/v1/status",
            "/metrics",
            "/v2",
            "/v2/models/shades",
            "/nowhere",
            "/v1/classify",
        ]
        for path in closed:
            response = await client.get(path)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == 'Bearer realm="skipvit"'
            assert "no API key came" in response.text
        for path in ("/v1/classify", UNLOAD, "/livez/../metrics"):
            assert (await client.post(path, content=png(), headers=PNG)).status_code == 401, path
        unknown = await client.get("/v1/models", headers={"Authorization": "Bearer nonsense"})
        assert unknown.status_code == 401
        assert 'error="invalid_token"' in unknown.headers["www-authenticate"]
        assert isinstance((await client.get("/v2/models/shades")).json()["error"], str)
        assert (await client.get("/v1/models")).json()["error"]["code"] == "unauthorized"

    play(scenario)


def test_a_key_opens_what_its_scopes_say(play: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        async def statuses(name: str) -> list[int]:
            get = [await client.get(path, headers=bearer(name)) for path in ("/v1/models", "/metrics")]
            post = await client.post("/v1/classify", content=png(), headers={**PNG, **bearer(name)})
            admin = await client.post(UNLOAD, headers=bearer(name))
            return [response.status_code for response in (*get, post, admin)]

        assert await statuses("web") == [200, 403, 200, 403]
        assert await statuses("prom") == [403, 200, 403, 403]
        *others, admin = await statuses("ops")
        assert others == [200, 200, 200]
        assert admin not in (401, 403)
        refused = await client.post("/v2/repository/models/shades/load", headers=bearer("web"))
        assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="admin"'

    play(scenario)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-API-Key": "KEY"}, 200),
        ({"X-API-Key": " KEY "}, 200),
        ({"Authorization": "bearer KEY"}, 200),
        ({"Authorization": "Basic KEY"}, 401),
        ({"Authorization": "KEY"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer KEY KEY"}, 401),
        ({"Authorization": "Basic for-a-proxy", "X-API-Key": "KEY"}, 200),
        ({"Authorization": "Bearer KEY", "X-API-Key": "wrong"}, 401),
    ],
)
def test_ways_to_send_a_key(play: Callable[..., None], headers: dict[str, str], status: int) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        sent = {name: value.replace("KEY", KEYS["web"][0]) for name, value in headers.items()}
        assert (await client.get("/v1/models", headers=sent)).status_code == status

    play(scenario)


def test_the_log_has_the_name_of_the_key_and_never_the_key(
    play: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        caplog.set_level("INFO", "serve.access")
        await client.get("/v1/models", headers=bearer("web"))
        await client.get("/v1/models", headers={"X-API-Key": "a-secret-typo"})
        metrics = (await client.get("/metrics", headers=bearer("prom"))).text
        assert 'skipvit_rejected_total{reason="unauthorized"} 1.0' in metrics
        assert "web" not in metrics

    play(scenario)
    fields = [record.fields for record in caplog.records if record.name == "serve.access"]  # type: ignore[attr-defined]
    assert [(line["status"], line.get("key")) for line in fields[:2]] == [(200, "web"), (401, None)]
    assert KEYS["web"][0] not in caplog.text + str(fields)
    assert "a-secret-typo" not in caplog.text + str(fields)


def test_metrics_may_be_open(play: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 401

    play(scenario, open_metrics=True)


def test_a_body_is_not_read_before_its_key(play: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        read: list[int] = []

        async def body() -> Any:
            read.append(1)
            yield b"x"

        assert (await client.post("/v1/classify", content=body(), headers=PNG)).status_code == 401
        assert not read

    play(scenario)


def test_the_description_says_what_needs_a_key(play: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        spec = (await client.get("/openapi.json")).json()
        assert set(spec["components"]["securitySchemes"]) == {"bearer", "key"}
        for path, operations in spec["paths"].items():
            for operation in operations.values():
                assert ("security" in operation) == (path not in PROBES) == ("401" in operation["responses"])

    play(scenario)

    async def open_to_all(client: httpx.AsyncClient) -> None:
        assert "securitySchemes" not in (await client.get("/openapi.json")).json()["components"]

    play(open_to_all, api_keys=None)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none", ""])
def test_pages_of_other_sites_give_no_orders(play: Callable[..., None], site: str) -> None:
    origin = "https://shop.example"
    headers = {"Origin": origin, **PNG, **({"Sec-Fetch-Site": site} if site else {})}
    foreign = site in ("cross-site", "same-site")

    async def strict(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/classify", content=png(), headers=headers)
        assert answer.status_code == (403 if foreign else 200)
        assert ("cross_site" in answer.text) == foreign
        assert (await client.get("/v1/models", headers=headers)).status_code == 200  # its answer is kept from the page

    async def allowed(client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/classify", content=png(), headers=headers)).status_code == 200

    play(strict, api_keys=None)
    play(allowed, api_keys=None, cors_origins=origin)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("http://test:8000", 403),
        ("http://test", 200),
        ("http://shop.example", 200),
        ("", 200),
    ],
)
def test_orders_of_pages_whose_browser_does_not_say_where_they_are(
    play: Callable[..., None], origin: str, status: int
) -> None:
    """Over HTTP, to another host than localhost, no browser sends Sec-Fetch-Site."""

    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {"Origin": origin} if origin else {}
        assert (await client.post("/v1/classify", content=png(), headers={**headers, **PNG})).status_code == 200
        assert (await client.post(UNLOAD, headers=headers)).status_code == status

    play(scenario, api_keys=None, model_control="explicit", cors_origins="http://shop.example")


@pytest.mark.parametrize("root", ["", "/", "/v2/repository", "/behind"])
def test_a_prefix_of_the_path_opens_nothing(models_dir: Path, tmp_path: Path, root: str) -> None:
    file = tmp_path / "keys"
    file.write_text(KEYS["web"][1])
    settings = Settings(decode_threads=1, api_keys=file, model_control="explicit")
    repository = Repository.open(models_dir, settings)
    app = create_app(settings, repository)

    async def main() -> None:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, root_path=root)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for prefix in ("", root):
                    answer = await client.post(f"{prefix}{UNLOAD}", headers=bearer("web"))
                    assert answer.status_code in (403, 404), "no such path, or not for this key"
                    assert (await client.get(f"{prefix}/v1/models")).status_code in (401, 404)
                assert (await client.get("/livez")).status_code == 200
        assert "shades" in repository.models

    asyncio.run(main())


def test_cors_is_off_unless_asked_for(play: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        response = await client.get("/livez", headers={"Origin": "https://shop.example"})
        assert not [name for name in response.headers if name.startswith("access-control")]

    play(scenario)


def test_cors_for_the_origins_that_were_named(play: Callable[..., None]) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    async def scenario(client: httpx.AsyncClient) -> None:
        for origin in ("https://shop.example", "http://localhost:3000"):
            allowed = await client.options("/v1/classify", headers={"Origin": origin, **ask})  # without a key
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == origin
            assert "authorization" in allowed.headers["access-control-allow-headers"]
            assert "access-control-allow-credentials" not in allowed.headers
        refused = await client.options("/v1/classify", headers={"Origin": "https://evil.example", **ask})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        answer = await client.get("/v1/models", headers={"Origin": "https://shop.example"})
        assert answer.status_code == 401  # and the page may read why
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        readable = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"retry-after", *(name.lower() for name in MODEL_HEADERS)} <= readable
        assert "Origin" in answer.headers["vary"]

    play(scenario, cors_origins="https://shop.example, http://localhost:3000")


@pytest.mark.parametrize("origins", ["shop.example", "https://shop.example/", "https://a.example,ftp://b", "null"])
def test_origins_that_no_browser_sends_are_refused(origins: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        Settings(cors_origins=origins)  # type: ignore[arg-type]  # as from a flag


def test_origins_are_compared_as_browsers_write_them() -> None:
    written = "https://Shop.Example:443,http://a.example:80,http://b.example:443,https://c.example:8443"
    expected = ("https://shop.example", "http://a.example", "http://b.example:443", "https://c.example:8443")
    assert Settings(cors_origins=written).cors_origins == expected  # type: ignore[arg-type]  # as from a flag


def test_origins_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPVIT_CORS_ORIGINS", "https://a.example,*")
    assert Settings().cors_origins == ("https://a.example", "*")
