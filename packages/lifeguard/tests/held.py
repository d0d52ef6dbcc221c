"""The service with a request that ends when its test says so, to be started in each of three ways.

Only the processes that tests start import this: it reads the environment.
"""

from lifeguard.web import TransactionDep

from packages.lifeguard.tests.sample.main import create_app

app = create_app()


@app.post("/test/held")
async def held(transaction: TransactionDep) -> str:
    """Keep a connection until the test lets go of its lock."""
    await transaction.execute("SELECT pg_advisory_xact_lock(42)")
    return "done"
