"""What the doctor says of a service with these settings."""

from lifeguard.operations.checks.finding import Finding
from lifeguard.operations.doctor import examine
from pydantic import SecretStr

from packages.lifeguard.tests.sample.settings import Settings


async def report(database_url: str, **values: object) -> dict[str, Finding]:
    """Each finding by its topic, `primary clock` for one."""
    if isinstance(replicas := values.get("database_replica_url"), str):
        values["database_replica_url"] = SecretStr(replicas)
    patient = {"pool_connect_timeout": 60}
    settings = Settings.model_validate({"database_url": SecretStr(database_url), **patient, **values})
    return {finding.topic: finding async for finding in examine(settings)}


def told(finding: Finding) -> str:
    """Everything that it says."""
    return str(finding)
