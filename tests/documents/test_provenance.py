import json

from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from registry.documents.manifest import Builder, make_manifest, read_manifest
from registry.documents.provenance import statement
from tests.support.release_makers import BASE, MANIFEST, RECIPE, WEIGHTS, A, B, changed


def test_provenance_is_a_statement_and_a_predicate_as_in_toto_and_slsa_define_them():
    made = json_format.ParseDict(statement(MANIFEST), statement_pb2.Statement())  # refuses unknown fields
    Statement.copy_from_pb(made).validate()
    predicate = statement(MANIFEST)["predicate"]
    parsed = json_format.ParseDict(predicate, provenance_pb2.Provenance())
    assert parsed.run_details.metadata.finished_on.ToJsonString() == "2026-11-25T10:00:00.000005Z"
    assert json_format.MessageToDict(parsed) == predicate


def test_provenance_names_files_recipe_base_patches_and_weights():
    made = statement(MANIFEST)
    assert made["subject"] == [
        {"name": "config.json", "digest": {"sha256": "2" * 64}},
        {"name": "model.safetensors", "digest": {"sha256": "3" * 64}},
    ]
    definition, run = made["predicate"]["buildDefinition"], made["predicate"]["runDetails"]
    assert definition["externalParameters"]["recipe"] == json.loads(RECIPE.canonical())
    base, *patches = definition["resolvedDependencies"]
    assert base["digest"] == {"breadcrumbWeights": BASE.removeprefix("sha256:")}
    assert [patch["digest"] for patch in patches] == [{"sha256": A}, {"sha256": B}]
    assert patches[0]["name"] == "org/model#1" and patches[0]["annotations"]["author"] == "alice"
    assert {one["digest"]["breadcrumbWeights"] for one in run["byproducts"]} == {WEIGHTS.removeprefix("sha256:")}
    assert [one["annotations"]["builder"] for one in run["byproducts"]] == ["worker-1", "alice"]
    assert RECIPE.digest in run["metadata"]["invocationId"]


def test_whoever_has_the_manifest_makes_the_same_provenance():
    other = changed(files=MANIFEST.files[::-1], patches=MANIFEST.patches[::-1])
    assert statement(read_manifest(make_manifest(other))) == statement(other) == statement(MANIFEST)


def test_a_builder_is_a_uri_whatever_its_name():
    made = statement(changed(builders=(Builder("a b/ü#1", WEIGHTS, "cpu"),)))
    assert made["predicate"]["runDetails"]["builder"]["id"] == "urn:breadcrumb:builder:a%20b%2F%C3%BC%231"
