"""A start imports and builds nothing that it does not need; what it leaves out is there when it is needed."""

import json
import subprocess
import sys

import pytest
from lifeguard.service import later

OPENAPI = """
import json, sys
if sys.argv[1] == "lean":
    import lifeguard.lean
import fastapi
from fastapi.openapi import models
from fastapi.security import OAuth2PasswordBearer

built = models.Schema.__pydantic_complete__, models.Operation.__pydantic_complete__
app = fastapi.FastAPI()

@app.get("/items/{number}", dependencies=[fastapi.Depends(OAuth2PasswordBearer("token"))])
def item(number: int, query: str | None = fastapi.Query(None, examples=["a"])) -> list[str]: ...

print(json.dumps([built, "pydantic.v1" in sys.modules, app.openapi()]))
"""
OF_V1 = """
import lifeguard.lean, fastapi
from pydantic import v1

class Old(v1.BaseModel): ...

app = fastapi.FastAPI()
try:
    app.get("/")(lambda: None) and app.get("/old", response_model=Old)(lambda: None)
except fastapi.exceptions.PydanticV1NotSupportedError:
    print("refused")
"""
LEFT_OUT = """
import sys
import lifeguard.lean, structlog
print(*{"rich", "greenlet", "colorama", "fastapi", "structlog"} & sys.modules.keys())
import rich
print(structlog.dev.rich, rich.__name__)
"""
LATER = """
import asyncio, sys
import lifeguard.service.serving, lifeguard.protection
from lifeguard.operations import docs_page, live_page, pool_pages, probes
from lifeguard.service import later

wanted = {*later.MODULES, *later.LIBRARIES}
print(bool({*wanted, "typer", "pydantic.v1"} & sys.modules.keys()))
later._AFTER = 0
asyncio.run(later.import_them())
print(wanted <= sys.modules.keys())
"""


def said_by(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_openapi_models_are_built_at_first_use_and_describe_the_same() -> None:
    built, has_v1, schema = json.loads(said_by(OPENAPI, "lean"))
    assert (built, has_v1) == ([False, False], False)
    plainly_built, _, plain = json.loads(said_by(OPENAPI, "plain"))
    assert plainly_built == [True, True]
    assert schema == plain


def test_a_model_of_pydantic_v1_is_refused_as_ever() -> None:
    assert said_by(OF_V1) == "refused\n"


def test_structlog_comes_without_what_it_would_import_for_others() -> None:
    imported, kept = said_by(LEFT_OUT).splitlines()
    assert set(imported.split()) == {"fastapi", "structlog"}
    assert kept == "None rich"  # which others may import


def test_a_library_that_is_imported_later_is_missed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    later.check()
    monkeypatch.setattr(later, "LIBRARIES", (*later.LIBRARIES, "lifeguard_has_no_such_library"))
    with pytest.raises(ModuleNotFoundError, match=r"^not installed.*: lifeguard_has_no_such_library$"):
        later.check()


def test_what_no_start_waits_for_is_imported_after_it() -> None:
    before, after = said_by(LATER).splitlines()
    assert before == "False"
    assert after == "True"
