"""`make end-to-end`: the unchanged docker-compose.yml, used and maltreated under load, then taken away.

Clients ask all the time, each request once (`bench.rolling`). A step fails when they lose a request that
it should not have cost, and the whole when the ledger does not hold exactly what they were told.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING

import httpx
from httpx import codes

from bench.rolling.books import BOOKED, OPENING_BALANCE, UNBALANCED, compare, open_accounts, repeat
from bench.rolling.clients import Crowd
from deploy import releases
from deploy.end_to_end_database import back_up_and_restore
from deploy.stack import (
    PORT,
    PROJECT,
    PROMETHEUS_PORT,
    ROOT,
    Failure,
    Stack,
    copy_checkout,
    expect,
    step,
    take_down,
    until,
    until_serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS, RATE = 20, 40.0
"""Requests a second, all clients together: enough to meet every instant, little enough for a laptop."""
LONGEST_START = 2.0
POOLED = "postgresql://app@pgbouncer:6432/ledger?sslmode=disable"
STANDBY = "postgresql://app@replica:5432/ledger?sslmode=disable"


HOLD = """
BEGIN;
SELECT FROM accounts WHERE id = {account} FOR UPDATE;
DO $$
DECLARE
    waits bool;
    waited bool := false;
BEGIN
    FOR attempt IN 1..1200 LOOP
        PERFORM pg_stat_clear_snapshot();
        waits := EXISTS (SELECT FROM pg_stat_activity
                          WHERE wait_event_type = 'Lock' AND application_name LIKE '%{tag}');
        IF waited AND NOT waits THEN RETURN; END IF;
        waited := waited OR waits;
        PERFORM pg_sleep(0.05);
    END LOOP;
    RAISE 'no session with the tag {tag} waited and stopped waiting';
END $$
"""
"""Lock a row until somebody with this tag has waited for it."""


async def examine(client: httpx.AsyncClient) -> None:
    """What a client sees of the service, and what it must not see."""
    for path in (
        "/healthz",
        "/readyz",
        "/%6detrics",
        "//pool",
        "/pool;x",
        "/./metrics",
        "/metrics",
        "/pool",
        "/pool/live",
        "/pool/leases",
        "/docs",
        "/openapi.json",
    ):
        status = (await client.get(path)).status_code
        expect(true=status == codes.NOT_FOUND, otherwise=f"{path} can be seen from outside: {status}")
    one, two = [await new_account(client) for _ in range(2)]
    body = {"from_account": one, "to_account": two, "amount": 2500}
    key = {"Idempotency-Key": "end-to-end"}
    first, again = [await client.post("/v1/transfers", json=body, headers=key) for _ in range(2)]
    expect(
        true=first.status_code == codes.CREATED and first.json() == again.json(), otherwise="a replay differs"
    )
    expect(true="idempotent-replayed" in again.headers, otherwise="a replay is not marked")
    balance = (await client.get(f"/v1/accounts/{two}")).json()["balance"]
    expect(true=balance == OPENING_BALANCE + body["amount"], otherwise=f"balance {balance}")
    refused = await client.post("/v1/transfers", json={**body, "amount": 10**9})
    expect(true=refused.json()["type"] == "/problems/insufficient-funds", otherwise=refused.text)


async def new_account(client: httpx.AsyncClient) -> int:
    new = {"owner": "end to end", "currency": "CHF", "opening_balance": OPENING_BALANCE}
    number: int = (await client.post("/v1/accounts", json=new)).raise_for_status().json()["id"]
    return number


async def started_quickly(stack: Stack) -> None:
    """From the container's start to the line in which the service says that it is ready.

    What the machine did besides is not the service's fault: the limit is for the processor's time.
    """
    for replica in await stack.replicas():
        started = await stack.run("docker", "inspect", "--format", "{{.State.StartedAt}}", replica)
        lines = map(json.loads, (await stack.run("docker", "logs", replica)).splitlines())
        ready = next(line["timestamp"] for line in lines if line.get("status") == "ready")
        took = (datetime.fromisoformat(ready) - datetime.fromisoformat(started)).total_seconds()
        ticks = (await stack.run("docker", "exec", replica, "cat", "/proc/1/stat")).split()[13:15]
        busy = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        print(f"a replica was ready {took:.2f} s after its start, {busy:.2f} s of them busy")
        expect(true=busy < LONGEST_START, otherwise="a replica takes too long to start")


async def pool_outside(stack: Stack, client: httpx.AsyncClient) -> None:
    """Through PgBouncer in transaction mode: tags and timeouts are still those of each request."""
    await stack("--profile", "pgbouncer", "up", "-d", "--no-deps", "pgbouncer")
    await stack.run("deploy/set", f"DATABASE_URL={POOLED}")
    hosts = (
        await stack.sql("SELECT DISTINCT client_addr FROM pg_stat_activity WHERE usename LIKE 'app%'")
    ).split()
    expect(true=len(hosts) == 1, otherwise=f"sessions come from {hosts}, not from PgBouncer alone")
    await wait_for_a_lock(stack, client)
    await releases.rotate(stack)


async def wait_for_a_lock(stack: Stack, client: httpx.AsyncClient) -> None:
    """A client in a hurry wants a row that is locked: the server shows its id and ends its wait.

    By its own timeout, or because the service has asked it to: which of the two is first is chance.
    """
    one, two = [await new_account(client) for _ in range(2)]

    async def held() -> bool:
        return await stack.sessions("wait_event = 'PgSleep'") == 1

    async with asyncio.TaskGroup() as group:
        group.create_task(stack.sql(HOLD.format(account=one, tag="in-a-hurry")))
        await until(held, "a row is locked")
        body = {"from_account": one, "to_account": two, "amount": 1}
        hurry = {"X-Request-ID": "in-a-hurry", "X-Request-Timeout": "1"}
        answer = await client.post("/v1/transfers", json=body, headers=hurry)
    expect(true=answer.status_code == codes.GATEWAY_TIMEOUT, otherwise=f"a locked row: {answer.text}")
    said = await stack("logs", "--no-color", "postgres")
    expect(
        true="canceling statement due to" in said,
        otherwise="the server did not end the wait",
    )


async def read_from_a_standby(stack: Stack) -> None:
    await stack("--profile", "replica", "up", "-d", "--no-deps", "replica")

    async def streams() -> bool:
        return await stack.sql("SELECT state FROM pg_stat_replication") == "streaming"

    await until(streams, "a standby streams")
    await releases.change_variables(stack, f"DATABASE_REPLICA_URL={STANDBY}")
    read = await stack.sessions("usename LIKE 'app%'", "replica")
    expect(true=read > 0, otherwise="nobody reads from the standby")
    await stack.run("deploy/rotate", "replicator")
    await until(streams, "the standby streams with the new password")


async def watch(stack: Stack) -> None:
    """Prometheus finds every replica, HAProxy and itself, and all of them answer."""
    await stack("--profile", "observability", "up", "-d", "--no-deps", "prometheus")
    wanted = sorted(["haproxy", *["lifeguard"] * len(await stack.replicas()), "prometheus"])
    seen: list[tuple[str, str]] = []

    async def all_up() -> bool:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PROMETHEUS_PORT}") as client:
            try:
                answer = (await client.get("/api/v1/targets")).raise_for_status()
            except httpx.HTTPError:
                return False
        targets = answer.json()["data"]["activeTargets"]
        seen[:] = [(target["labels"]["job"], target["health"]) for target in targets]
        return sorted(seen) == [(job, "up") for job in wanted]

    try:
        await until(all_up, "every target up")
    except Failure as failure:
        raise Failure(f"{failure}; wanted {wanted}, there are {sorted(seen)}") from None


async def audit(stack: Stack, crowd: Crowd) -> None:
    rows = (line.rpartition("|") for line in (await stack.sql(BOOKED)).splitlines())
    booked = [(key, int(number)) for key, _, number in rows if not key.startswith("end-to-end")]
    books = compare(booked, int(await stack.sql(UNBALANCED)), crowd.log)
    expect(true=books.faults == 0, otherwise=f"the ledger is wrong: {books}")
    print(f"{books.acknowledged} acknowledged transfers, each booked once; every account adds up")


async def use(stack: Stack) -> None:
    async with step("docker compose build"):
        await stack("build", "app", "migrate")
    async with step("the image has nothing in it that should not be"):
        own = [str(ROOT / ".env")] if (ROOT / ".env").exists() else []
        await stack.run(sys.executable, "-m", "deploy.image_secrets", f"{PROJECT}:latest", *own)
    async with step("docker compose up, with no volume there"):
        await stack("up", "-d")
        await until_serving(stack, 2)
    await started_quickly(stack)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=20) as client:
        async with step("the ledger through HAProxy, and nothing else"):
            await examine(client)
        accounts = await open_accounts(PORT)
        crowd = Crowd(PORT, clients=CLIENTS, rate=RATE, accounts=accounts, seed=1)
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.run())
            try:
                await releases.try_all(stack, crowd)
                async with step("Prometheus has every target up", crowd):
                    await watch(stack)
                async with step("a variable changed: with a standby; bad values", crowd):
                    await read_from_a_standby(stack)
                async with step("another: through PgBouncer; rotated", crowd):
                    await pool_outside(stack, client)
                await releases.kill_each(stack, crowd)
            finally:
                crowd.stop()
        await repeat(PORT, crowd.log)
        async with step("backed up, and restored"):
            await back_up_and_restore(stack.run, stack.compose)
        await audit(stack, crowd)
    async with step("everything taken down after a kill, and up"):
        await releases.down_after_a_kill(stack)
    async with step("deploy/down --volumes leaves nothing"):
        await releases.leave_nothing(stack)


def _leaves(group: BaseExceptionGroup[Failure]) -> Iterator[Failure]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


async def main() -> int:
    v2 = await asyncio.create_subprocess_exec("docker", "compose", "version", stdout=PIPE, stderr=PIPE)
    compose = ("docker", "compose") if await v2.wait() == 0 else ("docker-compose",)
    lost: list[str] = []
    with tempfile.TemporaryDirectory(prefix=PROJECT) as directory:
        stack = Stack(compose, Path(directory))
        copy_checkout(stack.directory)
        await stack.run("deploy/down", "--volumes")
        try:
            await use(stack)
        except* Failure as failures:
            print(await stack("logs", "--no-color", "--tail", "30"), file=sys.stderr)
            lost += map(str, _leaves(failures))
        finally:
            await take_down(stack)
    print("\n".join(lost) or "all is well", file=sys.stderr if lost else sys.stdout)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
