"""The files for TLS: the CA of the server, and the client's own certificate."""

import ssl
from pathlib import Path


def tls_context(
    ca_file: Path | str | None, cert_file: Path | str | None, key_file: Path | str | None
) -> ssl.SSLContext:
    """Return the context for a server with TLS. Raises `ValueError` if a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise ValueError(f"{ca_file} has no PEM certificates: {exc.strerror or exc}") from exc
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except OSError as exc:
            if key_file is None and not _has_key(cert_file):
                raise ValueError(f"no private key in {cert_file}; name its file with --key-file (key_file)") from exc
            pair = f"{cert_file} with the key in {key_file or cert_file}"
            raise ValueError(f"cannot load the PEM certificate {pair}: {exc.strerror or exc}") from exc
    elif key_file is not None:
        raise ValueError(f"{key_file} needs a certificate; name its file with --cert-file (cert_file)")
    return context


def _has_key(file: Path | str) -> bool:
    try:
        return b"PRIVATE KEY-----" in Path(file).read_bytes()
    except OSError:
        return True  # the file itself is the problem


def _no_password() -> str:
    raise ValueError("the private key is protected by a password, which is not supported; remove the password")
