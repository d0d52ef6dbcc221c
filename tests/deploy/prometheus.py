"""A real Prometheus with the project's own rules, faster than in production."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

DIRECTORY = Path(__file__).parents[2] / "deploy/prometheus"
END_TIMEOUT = 10.0  # seconds


@dataclass
class Prometheus:
    """A running one; what it says comes as its API gives it."""

    client: httpx.AsyncClient

    async def ask(self, path: str, **parameters: str) -> Any:  # Any: JSON
        answer = (await self.client.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def series(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What `expression` is now: labels and a number for each of its series."""
        data = await self.ask("query", query=expression)
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    async def alerts(self) -> set[str]:
        """The names of those that are firing."""
        data = await self.ask("alerts")
        return {alert["labels"]["alertname"] for alert in data["alerts"] if alert["state"] == "firing"}


@asynccontextmanager
async def watching(target: str, directory: Path, *, balancer: str | None = None) -> AsyncIterator[Prometheus]:
    """Scrape `target` (host:port), and HAProxy at `balancer`, and evaluate the rules every second."""
    executable = shutil.which("prometheus")
    assert executable, "needs Prometheus (Debian: apt install prometheus)"
    (directory / "prometheus.yml").write_text(yaml.safe_dump(_configuration(target, balancer, directory)))
    address = f"127.0.0.1:{unused_port()}"
    process = await asyncio.create_subprocess_exec(
        executable,
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address={address}",
        "--log.level=warn",
        stdout=sys.stderr,
        stderr=sys.stderr,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:

            async def ready() -> bool:
                assert process.returncode is None, "Prometheus has ended"
                try:
                    return (await client.get("/-/ready")).is_success
                except httpx.TransportError:
                    return False

            await eventually(ready)
            yield Prometheus(client)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), END_TIMEOUT)


def _configuration(
    target: str, balancer: str | None, directory: Path
) -> dict[str, Any]:  # Any: what is in Prometheus's file
    """The project's configuration with other intervals, and addresses where it looks names up."""
    configuration: dict[str, Any] = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (patterns,) = configuration["rule_files"]
    configuration["rule_files"] = [f"{directory}/*.rules.yml"]
    for file in DIRECTORY.glob(patterns):
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (directory / f"{file.stem}.rules.yml").write_text(yaml.safe_dump(rules))
    known = {job["job_name"] for job in configuration["scrape_configs"]}
    here = {"lifeguard": target} | ({"haproxy": balancer} if balancer else {})
    assert here.keys() <= known
    configuration["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in here.items()
    ]
    return configuration
