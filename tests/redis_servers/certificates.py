"""Throw-away certificates: an authority, what it signed for a server and a client, and a stranger."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any


class Certificates:
    """Files in PEM format in a folder of their own, until ``close``.

    The server's certificate is for *names* only, so that a test may also try the wrong name.
    """

    def __init__(self, *names: str) -> None:
        import trustme  # here: only TLS tests need it

        self.folder = Path(tempfile.mkdtemp(prefix="papyra-tls-"))
        authority, stranger = trustme.CA(), trustme.CA(organization_name="nobody we know")
        self.authority = self._write("authority", authority.cert_pem)
        self.wrong_authority = self._write("wrong-authority", stranger.cert_pem)
        server = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
        self.server, self.server_key = self._write_pair("server", server)
        self.client, self.client_key = self._write_pair("client", authority.issue_cert("client@test.invalid"))
        self.wrong_client, self.wrong_client_key = self._write_pair(
            "wrong-client", stranger.issue_cert("client@test.invalid")
        )

    def _write(self, name: str, *blobs: Any) -> Path:
        path = self.folder / f"{name}.pem"
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    def _write_pair(self, name: str, leaf: Any) -> tuple[Path, Path]:
        return self._write(name, *leaf.cert_chain_pems), self._write(f"{name}-key", leaf.private_key_pem)

    def server_settings(self, *, mutual: bool) -> dict[str, str | bool]:
        """Return the lines of redis.conf; *mutual* asks clients for a certificate as well."""
        return {
            "tls-cert-file": str(self.server),
            "tls-key-file": str(self.server_key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": mutual,
        }

    def client_settings(self, *, mutual: bool) -> dict[str, Any]:
        """Return the arguments of ``redis.Redis`` with which it trusts the server, and is trusted."""
        own = {"ssl_certfile": str(self.client), "ssl_keyfile": str(self.client_key)} if mutual else {}
        return {"ssl": True, "ssl_ca_certs": str(self.authority), "ssl_check_hostname": True, **own}

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder, ignore_errors=True)
