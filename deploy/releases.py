"""Releases under load, for `deploy.end_to_end`: each change by its script, what may go wrong, and kills."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from deploy.stack import PROJECT, Stack, expect, step, until, until_serving

if TYPE_CHECKING:
    from bench.rolling.clients import Crowd

RELEASED = "docker-compose.released.yml"
CONTAINERS = ("app", "haproxy", "postgres")
PROFILES = ("replica", "pgbouncer")
FUTURE = "from __future__ import annotations\n"
NOTICED = 3.0
"""Seconds after which a replica that was killed costs nobody a request any more."""
BACK = 60.0
"""Seconds after which a database or a balancer that was killed, and is there again, costs nobody one."""


class Standing(NamedTuple):
    """What a change that fails must leave as it was."""

    images: tuple[str, ...]
    """Of the replicas."""
    tags: tuple[str, ...]
    released: str
    dotenv: str


async def standing(stack: Stack) -> Standing:
    images = [
        await stack.run("docker", "inspect", "--format", "{{.Image}}", one) for one in await stack.replicas()
    ]
    tags = await stack.run(
        "docker", "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}", PROJECT
    )
    texts = [(stack.directory / name).read_text(encoding="utf-8") for name in (RELEASED, ".env")]
    return Standing(tuple(sorted(images)), tuple(sorted(tags.splitlines())), *texts)


async def try_all(stack: Stack, crowd: Crowd) -> None:
    async with step("rolling update, with one replica dead", crowd):
        await update(stack)
    async with step("plain `up -d`, whatever has changed meanwhile", crowd):
        await up_changes_nothing(stack)
    async with step("an update that fails, and one beside it", crowd):
        await failed_update(stack)
    async with step("an update that is killed half way, and again", crowd):
        await killed_update(stack)
    async with step("an update that Ctrl-C breaks off, and again", crowd):
        await interrupted_update(stack)
    async with step("rollback, and forward again", crowd):
        await rollback(stack)
    async with step("passwords rotated, then plain `up -d`", crowd):
        await rotate(stack)
        await up_changes_nothing(stack)
    async with step("scaled to three, to one, and to two", crowd):
        for count in (3, 1, 2):
            await stack.run("deploy/scale", str(count))
            await until_serving(stack, count)
    if (stack.directory / "deploy/reload-haproxy").exists():
        async with step("HAProxy reloaded, ten times", crowd):
            for _ in range(10):
                await stack.run("deploy/reload-haproxy")


async def update(stack: Stack) -> None:
    """A dead replica is not started again as its own successor: all are of the new version."""
    before = await stack.replicas()
    await stack.run("docker", "stop", before[0])
    retries = (await stack.balancer())["haproxy_backend_retry_warnings_total"]
    stack.commit("app/main.py", FUTURE, f"{FUTURE}\n# two\n")
    await stack.run("deploy/rolling-update")
    await until_serving(stack, 2)
    await expect_version(stack, stack.version())
    expect(true=not set(before) & set(await stack.replicas()), otherwise="an old replica is still there")
    retried = (await stack.balancer())["haproxy_backend_retry_warnings_total"] - retries
    expect(true=retried == 0, otherwise=f"HAProxy had to try {retried:g} requests again")


async def expect_version(stack: Stack, version: str) -> None:
    said = await stack.versions()
    expect(true=set(said) == {f"200 {version}"}, otherwise=f"{said}, not all ready with version {version}")


async def up_changes_nothing(stack: Stack) -> None:
    """Neither another checkout, nor the shell's variables, nor `--build` recreate anything."""
    running = [await _started(stack, service) for service in CONTAINERS]
    stack.commit("docker-compose.yml", "pids_limit: 64", "pids_limit: 65")
    await stack("up", "-d")
    await stack("up", "-d", "--build")
    await stack.run(
        *stack.compose,
        "up",
        "-d",
        LIFEGUARD_IMAGE=f"{PROJECT}:latest",
        LIFEGUARD_ROLE="nobody",
        LIFEGUARD_REPLICAS="1",
    )
    stack.commit("docker-compose.yml", "pids_limit: 65", "pids_limit: 64")
    still = [await _started(stack, service) for service in CONTAINERS]
    expect(true=running == still, otherwise=f"a plain `up -d` has made {still} of {running}")


async def _started(stack: Stack, service: str) -> list[str]:
    """Since when which of its containers run."""
    inspect = ("docker", "inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}")
    return sorted([await stack.run(*inspect, one) for one in await stack.containers(service)])


async def failed_update(stack: Stack) -> None:
    """Everything is as before, tags included. Meanwhile nobody else may change anything."""
    before = await standing(stack)
    stack.commit("app/main.py", "\n# two\n", '\nraise SystemExit("broken on purpose")\n')
    process = await stack.start("deploy/rolling-update")
    lines = await _until_said(process, PROJECT)
    beside = await stack.run("deploy/scale", "5", code=1)
    expect(true="another of these scripts is at work" in beside, otherwise=beside)
    output = (lines + (await process.communicate())[0]).decode()
    expect(
        true=process.returncode == 1, otherwise=f"a failed update ends with {process.returncode}: {output}"
    )
    expect(true="broken on purpose" in output, otherwise=f"it does not say why: {output}")
    await expect_standing(stack, before)
    stack.commit("app/main.py", '\nraise SystemExit("broken on purpose")\n', "\n# three\n")


async def expect_standing(stack: Stack, before: Standing) -> None:
    after = await standing(stack)
    changed = [name for name in Standing._fields if getattr(before, name) != getattr(after, name)]
    expect(true=not changed, otherwise=f"a failed update has changed {changed}: {after.images} {after.tags}")


async def _until_said(process: asyncio.subprocess.Process, what: str) -> bytes:
    said = b""
    assert process.stdout
    async for line in process.stdout:
        said += line
        if what.encode() in line:
            break
    return said


async def killed_update(stack: Stack) -> None:
    """`kill -9` between two replicas. A plain `up -d` refuses then, and the same update goes on."""
    process = await stack.start("deploy/rolling-update")
    await _until_said(process, " serves, version")
    process.kill()
    await process.communicate()
    up = await stack.start(*stack.compose, "up", "-d")
    said = (await up.communicate())[0].decode()
    expect(true=up.returncode != 0 and "was broken off" in said, otherwise=f"`up -d` goes on: {said}")
    await stack.run("deploy/rolling-update")
    await expect_version(stack, stack.version())


async def interrupted_update(stack: Stack) -> None:
    """Ctrl-C while a predecessor drains. What is taken again is what runs, whatever the shell says."""
    update, image = "deploy/rolling-update", f"{PROJECT}:latest"
    before = await standing(stack)
    process = await stack.start(update, SKIP_BUILD="1", LIFEGUARD_IMAGE=image)
    await _until_said(process, " serves, version")
    await until_serving(stack, 2)  # of three
    os.killpg(process.pid, signal.SIGINT)
    said = (await process.communicate())[0].decode()
    expect(
        true=process.returncode == 128 + signal.SIGINT,
        otherwise=f"Ctrl-C ends with {process.returncode}: {said}",
    )
    await expect_standing(stack, before)
    await stack.run(update, SKIP_BUILD="1", LIFEGUARD_IMAGE=image)
    await expect_version(stack, stack.version())


async def rollback(stack: Stack) -> None:
    now = stack.version()
    await stack.run("deploy/rollback")
    said = await stack.versions()
    expect(true=now not in said[0], otherwise=f"rolled back, and still {said}")
    await stack.run("deploy/rollback")
    await expect_version(stack, now)


async def change_variables(stack: Stack, *others: str) -> None:
    """Those and one more; what is wrong with a value is one line, and changes nothing."""
    await stack.run("deploy/set", "POOL_MAX_LIFETIME=900", *others)
    for replica in await stack.replicas():
        value = await stack.run("docker", "exec", replica, "printenv", "POOL_MAX_LIFETIME")
        expect(true=value == "900", otherwise=f"POOL_MAX_LIFETIME={value}")
    before = await standing(stack), await stack.replicas()
    for bad in ("POOL_MAX_LIFETIME=soon", "POOL_MAX_LIFETIM=9", "OPS_TOKEN=1", "pool=1", "POOL_MIN_SIZE=-1"):
        said = await stack.run("deploy/set", bad, code=1)
        expect(true=len(said.splitlines()) == 1, otherwise=f"{bad}: {said}")
    expect(
        true=before == (await standing(stack), await stack.replicas()),
        otherwise="a bad value changes something",
    )


async def rotate(stack: Stack) -> None:
    """The service's password: the old one is refused afterwards, and nobody is logged in with it."""
    known = {login: await _password(stack, login) for login in ("app", "app_b")}
    await stack.run("deploy/rotate", "app")
    await stack.run("deploy/rotate", "migrator")
    logins = await stack.sql("SELECT rolname FROM pg_roles WHERE rolname LIKE 'app%' AND rolcanlogin")
    sessions = await stack.sql("SELECT DISTINCT usename FROM pg_stat_activity WHERE usename LIKE 'app%'")
    expect(true=logins == sessions, otherwise=f"{logins} may log in, {sessions} are logged in")
    now = await _password(stack, logins)
    expect(true=now not in known.values(), otherwise="the password is an old one")


async def _password(stack: Stack, login: str) -> str:
    file = stack.directory / f"deploy/secrets/{login}_password"
    return file.read_text(encoding="utf-8") if file.exists() else ""


async def kill_each(stack: Stack, crowd: Crowd) -> None:
    """Each container in turn is killed, and started again as Docker would do it with one that crashes."""
    for service in (*CONTAINERS, *PROFILES):
        bearable = NOTICED if service == "app" else BACK
        async with step(f"{service} is killed", crowd, may_fail_for=bearable):
            began = time.monotonic()
            victim, *_ = await stack.containers(service)
            await stack.run("docker", "kill", victim)
            await stack.run("docker", "start", victim)
            await until_serving(stack, 2)
            await _calm(crowd, began)
        failed = [when - began for when, _ in crowd.log.failures if when >= began]
        print(f"    the last request failed {max(failed, default=0):.1f} s after the kill", flush=True)


async def _calm(crowd: Crowd, since: float) -> None:
    """Wait until requests of three seconds in a row have been answered."""

    async def calm() -> bool:
        last = max((when for when, _ in crowd.log.failures if when > since), default=since)
        answered = max((due for due, _ in crowd.log.latencies), default=0.0)
        return answered - last > NOTICED and time.monotonic() - last > NOTICED

    await until(calm, "no request fails any more")


async def down_after_a_kill(stack: Stack) -> None:
    """What was broken off is over when nobody is served: compose starts what it put in place."""
    process = await stack.start("deploy/rolling-update", SKIP_BUILD="1")
    await _until_said(process, " serves, version")
    process.kill()
    await process.communicate()
    await stack.run("deploy/down")
    # DATABASE_URL leads through PgBouncer by then, and DATABASE_REPLICA_URL to the standby.
    await stack("--profile", "pgbouncer", "--profile", "replica", "up", "-d")
    await until_serving(stack, 2)


async def leave_nothing(stack: Stack) -> None:
    await stack.run("deploy/down", "--volumes")
    label = ("--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")
    for kind in ("volume", "network", "container"):
        left = await stack.run("docker", kind, "ls", *(["--all"] if kind == "container" else []), *label)
        expect(true=not left, otherwise=f"a {kind} is left: {left}")
