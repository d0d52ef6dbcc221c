"""The peers: the smallest FastAPI service one would write on each pool, in three sizes.

`bare` has nothing on; `instrumented` has what prometheus-fastapi-instrumentator does by itself; `alike` gives
its user the same as ours: the instrumentator, request ids, and an access log of JSON lines. uvicorn starts
them from their factories, each from a module that imports no other pool; all read `DATABASE_URL`.

FastAPI looks for annotations at run time, and here they name what is made in a function: they are not
deferred.
"""
