"""What `make run` says."""

import socket

import pytest
from lifeguard.development.run import PAGES, _announce
from lifeguard.operations import live_page, probes
from lifeguard.service import Service

from packages.lifeguard.tests.inside import settings_for
from packages.lifeguard.tests.sample.main import create_app


@pytest.mark.parametrize("ops_port", [None, 9])
async def test_it_names_the_pages_that_are_mounted_and_no_others(
    ops_port: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for("postgresql://nowhere.invalid/x", ops_port=ops_port)
    few = Service(settings)
    few.include_operators(probes.router)
    without_docs = settings.model_copy(update={"app_env": "production"})
    some = Service(without_docs)
    some.include_operators(probes.router, live_page.router)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        shown = {}
        for app in (create_app(settings), some, few):
            _announce(app, settings, listener, "nowhere")
            lines = [line.split() for line in capsys.readouterr().out.splitlines()]
            shown[app] = {line[0]: line[1] for line in lines if line and line[0] in PAGES}
    base = f"http://127.0.0.1:{ops_port or port}"
    everything, those, fewest = shown.values()
    assert everything == {name: f"{base}{path}" for name, path in PAGES.items()}
    assert those.keys() == {"pool", "metrics"}
    assert fewest.keys() == {"metrics"}
