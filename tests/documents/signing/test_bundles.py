import base64
import json
import socket
import stat
import subprocess
import sys

import pytest

from registry.documents.signing import bundles as signatures
from registry.documents.signing.bundles import make_key, sign_manifest, verify_manifest
from registry.errors import BreadcrumbError, DigestMismatch, InvalidRequest, MissingExtra, TooLarge

MANIFEST = b'{"model":"org/model","version":"1.0.0"}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    for name in ("one", "two"):
        make_key(folder / name, folder / f"{name}.pub")
    return folder


@pytest.fixture(scope="module")
def bundle(keys):
    return sign_manifest(MANIFEST, keys / "one")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("signing and verifying need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def altered(bundle, change):
    """Return a bundle after a change of its parsed form."""
    found = json.loads(bundle)
    change(found)
    return json.dumps(found)


def with_payload(bundle, change):
    """Return a bundle after a change of what it says it signs."""

    def change_payload(found):
        payload = json.loads(base64.b64decode(found["dsseEnvelope"]["payload"]))
        change(payload)
        found["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()

    return altered(bundle, change_payload)


def test_what_a_key_signed_its_public_half_verifies(keys, bundle, capsys):
    verify_manifest(MANIFEST, bundle, keys / "one.pub")
    assert json.loads(bundle)["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert capsys.readouterr() == ("", "")


def test_another_key_does_not_verify(keys, bundle):
    with pytest.raises(DigestMismatch, match="another key"):
        verify_manifest(MANIFEST, bundle, keys / "two.pub")
    hint = json.loads(sign_manifest(MANIFEST, keys / "two"))["verificationMaterial"]["publicKey"]["hint"]
    relabelled = altered(bundle, lambda b: b["verificationMaterial"]["publicKey"].update(hint=hint))
    with pytest.raises(DigestMismatch, match="does not verify"):
        verify_manifest(MANIFEST, relabelled, keys / "two.pub")


@pytest.mark.parametrize("changed", [MANIFEST + b"\n", MANIFEST[:-1], b"", MANIFEST.replace(b"1.0.0", b"1.0.1")])
def test_another_manifest_does_not_verify(keys, bundle, changed):
    with pytest.raises(DigestMismatch, match="another manifest"):
        verify_manifest(changed, bundle, keys / "one.pub")


def test_a_bundle_rewritten_for_another_manifest_does_not_verify(keys, bundle):
    other = sign_manifest(b"{}", keys / "two")
    payload = json.loads(other)["dsseEnvelope"]["payload"]
    forged = altered(bundle, lambda b: b["dsseEnvelope"].update(payload=payload))
    with pytest.raises(DigestMismatch, match="does not verify"):
        verify_manifest(b"{}", forged, keys / "one.pub")


def test_no_flipped_byte_of_a_bundle_verifies_as_anything_else(keys, bundle):
    raw = bundle.encode()
    sound = json.loads(bundle)
    for place in range(0, len(raw), 7):
        flipped = (raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]).decode()
        try:
            verify_manifest(MANIFEST, flipped, keys / "one.pub")
        except BreadcrumbError:
            continue
        found = json.loads(flipped)
        assert found["dsseEnvelope"]["payload"] == sound["dsseEnvelope"]["payload"]
        assert found["dsseEnvelope"]["signatures"][0]["sig"] == sound["dsseEnvelope"]["signatures"][0]["sig"]


@pytest.mark.parametrize(
    "garbage",
    ["", "{}", "[]", "null", "x", "[" * 100_000, '"\ud800"', "\ud800", '{"verificationMaterial":{"publicKey":null}}'],
)
def test_garbage_is_no_bundle(keys, garbage):
    with pytest.raises(InvalidRequest, match="not a sound bundle"):
        verify_manifest(MANIFEST, garbage, keys / "one.pub")


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.update(extra=1),
        lambda b: b.pop("mediaType"),
        lambda b: b["verificationMaterial"]["publicKey"].pop("hint"),
        lambda b: b["verificationMaterial"]["publicKey"].update(hint=None),
        lambda b: b["dsseEnvelope"].update(payload="!"),
        lambda b: b["dsseEnvelope"].update(payload=5),
        lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
    ],
)
def test_a_bundle_of_another_shape_is_refused(keys, bundle, change):
    with pytest.raises(InvalidRequest, match="not a sound bundle"):
        verify_manifest(MANIFEST, altered(bundle, change), keys / "one.pub")


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.update(mediaType="text/plain"),
        lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=None),
        lambda b: b["dsseEnvelope"].update(signatures=[5]),
        lambda b: b["verificationMaterial"].update(tlogEntries=5),
    ],
)
def test_a_bundle_that_the_library_refuses_does_not_verify(keys, bundle, change):
    with pytest.raises(DigestMismatch, match="does not verify"):
        verify_manifest(MANIFEST, altered(bundle, change), keys / "one.pub")


def test_a_key_twice_in_a_bundle_is_refused(keys, bundle):
    twice = bundle.replace('{"mediaType":', '{"mediaType":"x","mediaType":', 1)
    with pytest.raises(InvalidRequest, match="not a sound bundle"):
        verify_manifest(MANIFEST, twice, keys / "one.pub")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda p: p["predicate"].update(resources=[]), DigestMismatch),
        (lambda p: p["predicate"]["serialization"].update(ignore_paths=["manifest.json"]), DigestMismatch),
        (lambda p: p["predicate"]["serialization"].update(method="shards"), InvalidRequest),
        (lambda p: p.update(predicateType="https://model_signing/Digests/v0.1"), InvalidRequest),
    ],
)
def test_a_signature_that_covers_no_manifest_is_refused_even_from_the_right_key(keys, change, error):
    """The key itself signs: a folder of something else, or with rules of what to leave out."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    changed = with_payload(sign_manifest(MANIFEST, keys / "one"), change)

    def sign_again(found):
        payload = base64.b64decode(found["dsseEnvelope"]["payload"])
        kind = "application/vnd.in-toto+json"
        pae = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        key = serialization.load_pem_private_key((keys / "one").read_bytes(), None)
        found["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(
            key.sign(pae, ec.ECDSA(hashes.SHA256()))
        ).decode()

    with pytest.raises(error):
        verify_manifest(MANIFEST, altered(changed, sign_again), keys / "one.pub")
    same = with_payload(sign_manifest(MANIFEST, keys / "one"), lambda p: None)
    verify_manifest(MANIFEST, altered(same, sign_again), keys / "one.pub")  # the signing above is sound


def test_sizes_are_bounded(keys, bundle):
    with pytest.raises(TooLarge):
        verify_manifest(MANIFEST, bundle + " " * signatures.LONGEST_BUNDLE, keys / "one.pub")
    with pytest.raises(TooLarge):
        verify_manifest(b"x" * (signatures.LONGEST_MANIFEST + 1), bundle, keys / "one.pub")
    with pytest.raises(TooLarge):
        sign_manifest(b"x" * (signatures.LONGEST_MANIFEST + 1), keys / "one")


def test_what_is_no_key_is_a_sentence(keys, bundle, tmp_path):
    (tmp_path / "x").write_text("not a key")
    for path in (tmp_path / "x", tmp_path / "missing", tmp_path, keys / "one.pub"):
        with pytest.raises(InvalidRequest, match="key"):
            sign_manifest(MANIFEST, path)
    for path in (tmp_path / "x", tmp_path / "missing", keys / "one"):
        with pytest.raises(InvalidRequest, match="key"):
            verify_manifest(MANIFEST, bundle, path)


def test_keys_of_other_kinds_and_with_passwords_are_refused(bundle, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"secret")
    made = [
        (ed25519.Ed25519PrivateKey.generate(), plain),
        (ec.generate_private_key(ec.SECP256K1()), plain),
        (ec.generate_private_key(ec.SECP256R1()), locked),
    ]
    for number, (key, how) in enumerate(made):
        path = tmp_path / str(number)
        path.write_bytes(key.private_bytes(pem, pkcs8, how))
        with pytest.raises(InvalidRequest, match="without password"):
            sign_manifest(MANIFEST, path)


def test_a_new_key_is_its_owners_alone_and_replaces_none(keys, tmp_path):
    assert stat.S_IMODE((keys / "one").stat().st_mode) == 0o600
    before = (keys / "one").read_bytes()
    for private, public in [(keys / "one", tmp_path / "p"), (tmp_path / "q", keys / "one.pub")]:
        with pytest.raises(InvalidRequest, match="already"):
            make_key(private, public)
    with pytest.raises(InvalidRequest, match="cannot be made"):
        make_key(tmp_path / "no" / "q", tmp_path / "p")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="cannot be made"):
        make_key(tmp_path / "link", tmp_path / "p")
    (tmp_path / "link").unlink()
    assert (keys / "one").read_bytes() == before and not list(tmp_path.iterdir())


def test_the_librarys_own_command_verifies_what_was_signed_here(keys, bundle, tmp_path):
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "manifest.json").write_bytes(MANIFEST)
    (tmp_path / "sig").write_text(bundle)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(tmp_path / "release")]
    command += ["--signature", str(tmp_path / "sig"), "--public_key"]
    for name, expected in (("one.pub", 0), ("two.pub", 1)):
        done = subprocess.run([*command, str(keys / name)], capture_output=True, text=True)
        assert done.returncode == expected, done.stderr


def test_without_the_extra_there_is_a_sentence(keys, monkeypatch):
    for name in ("model_signing", "model_signing.signing", "model_signing.verifying"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'breadcrumb-registry\[sign\]'"):
        sign_manifest(MANIFEST, keys / "one")


def test_importing_signatures_loads_no_library():
    code = "import sys, registry.documents.signing.bundles\n"
    code += "print({'model_signing', 'cryptography', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
