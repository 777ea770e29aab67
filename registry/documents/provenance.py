"""Provenance of a release, as an in-toto Statement v1 with a SLSA provenance v1 predicate.

    subject                       the files of the model
    buildDefinition
      buildType                   urn:breadcrumb:composition:v1
      externalParameters          model, version and recipe, which determine the bytes
      resolvedDependencies        the base and the patch files
    runDetails
      builder.id                  urn:breadcrumb:builder:<the first builder>
      metadata                    invocationId: the recipe digest; finishedOn: when the release was published
      byproducts                  the weights of each builder

It is derived from the manifest, so it is not signed: whoever has the signed manifest can derive it again. A weights
digest is a sha256 over tensors, not over a file, so it has a name of its own, `breadcrumbWeights`.
"""

import json
from typing import Any
from urllib.parse import quote

from registry.documents.manifest import Builder, Manifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:breadcrumb:composition:v1"


def statement(manifest: Manifest) -> dict[str, Any]:
    """Return the provenance of a release, ready for `json.dumps`."""
    first, *others = manifest.builders
    base = {
        "name": "base",
        "uri": f"urn:breadcrumb:weights:{manifest.base}",
        "digest": _weights(manifest.base),
    }
    patches = [
        {
            "name": f"{manifest.model}#{patch.number}",
            "uri": f"urn:breadcrumb:patch:sha256:{patch.sha256}",
            "digest": {"sha256": patch.sha256},
            "annotations": {"author": patch.author, "revision": patch.revision, "weight": patch.weight},
        }
        for patch in sorted(manifest.patches, key=lambda patch: patch.sha256)
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": file.path, "digest": {"sha256": file.sha256}}
            for file in sorted(manifest.files, key=lambda file: file.path)
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": manifest.model,
                    "version": manifest.version,
                    "recipe": json.loads(manifest.recipe.canonical()),
                },
                "resolvedDependencies": [base, *patches],
            },
            "runDetails": {
                "builder": {"id": f"urn:breadcrumb:builder:{quote(first.who, safe='')}"},
                "metadata": {
                    "invocationId": f"urn:breadcrumb:recipe:{manifest.recipe.digest}",
                    "finishedOn": manifest.created_at.isoformat().replace("+00:00", "Z"),
                },
                "byproducts": [_byproduct("weights", first), *(_byproduct("weights, again", one) for one in others)],
            },
        },
    }


def _byproduct(name: str, builder: Builder) -> dict[str, Any]:
    return {
        "name": name,
        "digest": _weights(builder.weights_digest),
        "annotations": {"builder": builder.who, "device": builder.device},
    }


def _weights(digest: str) -> dict[str, str]:
    return {"breadcrumbWeights": digest.removeprefix("sha256:")}
