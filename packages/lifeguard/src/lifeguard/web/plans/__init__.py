"""Requests answered by plans: what FastAPI finds out for each request, found out once for each route.

    plans.install(service)          in `create_app`; `PLANS=false` turns it off

A plan validates what a route declares by FastAPI's own fields, borrows the connection, calls the endpoint and
serialises what that returns by the route's own field. Whatever it has any doubt about it hands to FastAPI,
untouched: a value that is not valid, a dependency that a test has overridden, a request that is traced, a
route that declares what plans do not know. So errors, documentation and tests are FastAPI's. docs/plans.md
has the list.

Nothing else knows of this folder: without it, and without the line that installs it, FastAPI answers all.
"""

from lifeguard.web.plans.layer import install

__all__ = ["install"]
