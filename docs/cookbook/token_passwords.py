"""Tokens of a cloud's metadata service as database passwords: no SDK, and no secret in the deployment."""

import time

import httpx
from lifeguard import settings
from lifeguard.settings import PasswordAnswer
from typing_extensions import override

_PATIENCE = 2.0  # seconds for each step of a request; POOL_CONNECT_TIMEOUT bounds the whole


class Settings(settings.Settings):  # in app/settings.py: one more field, and the function
    metadata_url: str = "http://metadata.google.internal"
    """Where the metadata service is. `http://169.254.169.254` on Azure."""

    @override
    async def password_for(self, host: str, port: int, user: str) -> PasswordAnswer:
        """A token of the service account, kept until it expires; it is the same for every host."""
        async with httpx.AsyncClient(base_url=self.metadata_url, timeout=_PATIENCE) as metadata:
            answer = await metadata.get(
                "/computeMetadata/v1/instance/service-accounts/default/token",
                headers={"Metadata-Flavor": "Google"},
            )
        # On Azure: "/metadata/identity/oauth2/token" with headers={"Metadata": "true"} and params={
        # "api-version": "2018-02-01", "resource": "https://ossrdbms-aad.database.windows.net"}
        token = answer.raise_for_status().json()
        return token["access_token"], time.time() + float(token["expires_in"])
