"""Bundles: the manifest of a release, signed with the maintainer's key and verified with the public one; offline.

The signature is the OpenSSF model-signing bundle of a folder whose only file is `manifest.json`, so anybody can check
it without this program:

    mkdir release && cp manifest.json release/
    model_signing verify key release --signature manifest.sig --public_key release.pub

Files are not hashed again: the manifest has the digest of each. A signature shows where a release came from,
not whether to trust it.
"""

import base64
import hashlib
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from registry.documents.manifest import MOST_BYTES as LONGEST_MANIFEST
from registry.documents.strict import parse
from registry.errors import DigestMismatch, InvalidRequest, TooLarge
from registry.extras import naming_extras

LONGEST_BUNDLE = 2**20
LONGEST_KEY = 2**16
"""All in bytes."""

_FILE = "manifest.json"
_PREDICATE = "https://model_signing/signature/v1.0"


def make_key(private: Path, public: Path) -> None:
    """Make an EC P-256 key pair as PEM files, the private one readable by its owner only.

    Raises:
        InvalidRequest: A file exists already, or cannot be written.
        MissingExtra: The extra `sign` is not installed.
    """
    _load("signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    for path in (private, public):
        if path.exists():
            raise InvalidRequest(f"The key {path} exists already; choose another name.", field="key")
    key = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write_new(private, key.private_bytes(pem, pkcs8, plain), 0o600)
    _write_new(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo), 0o644)


def sign_manifest(manifest: bytes, private_key: Path) -> str:
    """Sign the bytes of a manifest.

    Args:
        manifest: As `make_manifest` wrote them.
        private_key: A PEM file without password, of an elliptic curve key (P-256, as `make_key` makes it).

    Returns:
        The bundle, JSON text.

    Raises:
        InvalidRequest: The key cannot be used.
        MissingExtra: The extra `sign` is not installed.
        TooLarge: The manifest is too long.
    """
    _bound(manifest, LONGEST_MANIFEST, "A manifest")
    signing = _load("signing")
    _bound(_read(private_key), LONGEST_KEY, "A key")
    try:
        config = signing.Config().set_hashing_config(_hashing())
        config = config.use_elliptic_key_signer(private_key=private_key)
    except Exception:  # anything that cryptography raises for another kind of file
        raise InvalidRequest(
            f"{private_key} is not a private key to sign with: a PEM file of an elliptic curve key, without password.",
            field="key",
        ) from None
    with tempfile.TemporaryDirectory(prefix="crumb-") as name:
        folder, bundle = _lay_out(Path(name), manifest)
        config.sign(folder, bundle)
        return bundle.read_text("utf-8")


def verify_manifest(manifest: bytes, bundle: str, public_key: Path) -> None:
    """Check that a manifest was signed by the holder of a key.

    Args:
        manifest: The bytes, perhaps a stranger's.
        bundle: The signature, perhaps a stranger's, too.
        public_key: A PEM file from somebody you trust, which did not come with the signature.

    Raises:
        DigestMismatch: The signature is by another key, was changed, or is over another manifest.
        InvalidRequest: The signature or the key is malformed.
        MissingExtra: The extra `sign` is not installed.
        TooLarge: The manifest, the signature or the key is too long.
    """
    _bound(manifest, LONGEST_MANIFEST, "A manifest")
    known = require_key(public_key)
    hint = require_signs(manifest, bundle)
    config = _load("verifying").Config().set_hashing_config(_hashing())
    config = config.use_elliptic_key_verifier(public_key=public_key)
    if hint != known:
        raise DigestMismatch(f"The signature was made with another key than {public_key}.", field="signature")
    with tempfile.TemporaryDirectory(prefix="crumb-") as name:
        folder, file = _lay_out(Path(name), manifest)
        file.write_text(bundle, "utf-8")
        try:
            config.verify(folder, file)
        except Exception:  # the library reads a stranger's bytes: InvalidSignature, ValueError and anything else
            raise DigestMismatch(
                f"The signature does not verify with {public_key}; it or the manifest was changed.", field="signature"
            ) from None


def require_key(public_key: Path) -> str:
    """Refuse a file that is not a public key to verify with; return the name that it has in a bundle.

    Raises:
        InvalidRequest: It cannot be read, or is not one.
        MissingExtra: The extra `sign` is not installed.
        TooLarge: It is too long.
    """
    verifying = _load("verifying")
    _bound(_read(public_key), LONGEST_KEY, "A key")
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        return _hint(public_key)
    except Exception:  # anything that cryptography raises for another kind of file
        raise InvalidRequest(
            f"{public_key} is not a public key to verify with: a PEM file of an elliptic curve key.", field="key"
        ) from None


def require_signs(manifest: bytes, bundle: str) -> str:
    """Refuse a bundle that is not about a manifest, whoever made it; return the name of the key that it says.

    Raises:
        DigestMismatch: It is over another manifest.
        InvalidRequest: It is malformed.
        TooLarge: It is too long.
    """
    signed, hint = _look_into(bundle)
    if signed != {_FILE: hashlib.sha256(manifest).hexdigest()}:
        raise DigestMismatch("The signature is of another manifest; one of the two was changed.", field="signature")
    return hint


def _load(name: str) -> ModuleType:
    """Import a module of model_signing, which the extra `sign` brings."""
    with naming_extras():
        import model_signing.signing
        import model_signing.verifying
    return {"signing": model_signing.signing, "verifying": model_signing.verifying}[name]


def _hashing() -> Any:
    """Return the configuration that hashes every file by sha256, whatever a bundle says."""
    from model_signing.hashing import Config

    config: Any = Config()  # type: ignore[no-untyped-call]
    return config.use_file_serialization(hashing_algorithm="sha256").set_ignored_paths(paths=(), ignore_git_paths=False)


def _lay_out(place: Path, manifest: bytes) -> tuple[Path, Path]:
    """Write the manifest as the only file of a folder, and return the folder and the path for its signature."""
    folder = place / "release"
    folder.mkdir()
    (folder / _FILE).write_bytes(manifest)
    return folder, place / "manifest.sig"


def _look_into(bundle: str) -> tuple[dict[str, str], str]:
    """Return the files that a bundle signs, with their sha256, and the digest of its key.

    Only the newest form is accepted: the library also reads older ones, which name less, and lets a bundle choose
    files to leave out of the comparison.
    """
    _bound(bundle.encode("utf-8", "surrogatepass"), LONGEST_BUNDLE, "A signature")
    try:
        document = parse(bundle.encode("utf-8"))
        hint = document["verificationMaterial"]["publicKey"]["hint"]
        envelope = document["dsseEnvelope"]
        payload = parse(base64.b64decode(envelope["payload"], validate=True))
        resources = payload["predicate"]["resources"]
        signed = {one["name"]: one["digest"] for one in resources if one["algorithm"] == "sha256"}
        sound = (
            document.keys() == {"mediaType", "verificationMaterial", "dsseEnvelope"}
            and len(envelope["signatures"]) == 1
            and payload["predicateType"] == _PREDICATE
            and payload["predicate"]["serialization"]["method"] == "files"
            and len(signed) == len(resources)
            and isinstance(hint, str)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise InvalidRequest("The signature is not a sound bundle; download it again.", field="signature")
    return signed, hint


def _hint(public_key: Path) -> str:
    """Return the name of a key in a bundle: the sha256 of its PEM."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_public_key(public_key.read_bytes())
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_KEY + 1)
    except OSError as problem:
        raise InvalidRequest(f"The key {path} cannot be read: {problem.strerror or problem}.", field="key") from None


def _bound(raw: bytes, longest: int, what: str) -> None:
    if len(raw) > longest:
        raise TooLarge(f"{what} has at most {longest} bytes, and this has more.")


def _write_new(path: Path, raw: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    except OSError as problem:
        raise InvalidRequest(f"The key {path} cannot be made: {problem.strerror or problem}.", field="key") from None
    with os.fdopen(handle, "wb") as file:
        file.write(raw)
