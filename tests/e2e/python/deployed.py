"""What tests of packaging need of YAML and licences.

    deployed.py yaml FILE…        prints the documents of the files as one list of JSON
    deployed.py manifests FILE…   the same of Kubernetes manifests, after each was held to the schema of its kind
    deployed.py licences DENY     reads `cargo metadata` from stdin, and prints a line for each package whose licence DENY's allow
                                   list does not let in
"""

import json
import re
import sys

import yaml

# As old as clusters in the field are.
KUBERNETES = "1.30"
# Kinds of others, whose schemas are not Kubernetes' own.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "Certificate", "Issuer", "Kustomization"}


def documents(paths):
    for path in paths:
        with open(path, encoding="utf-8") as file:
            yield from yaml.safe_load_all(file)


def manifests(paths):
    import kubernetes_validate

    for document in documents(paths):
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        yield document


def holds(expression, allowed):
    """Whether an SPDX expression can be met by allowed licences alone."""
    # An old way to write OR.
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def any_of():
        met = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = all_of() or met
        return met

    def all_of():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one():
        token = tokens.pop(0)
        if token == "(":
            met = any_of()
            tokens.pop(0)
            return met
        if tokens and tokens[0] == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return token in allowed

    return any_of()


def licences(path):
    with open(path, encoding="utf-8") as file:
        # Not every Python in the field reads TOML by itself.
        allowed = set(re.findall(r'"([^"]+)"', re.search(r"^allow = \[(.*?)\]", file.read(), re.M | re.S)[1]))
    assert "MIT" in allowed, allowed
    packages = json.load(sys.stdin)["packages"]
    assert len(packages) > 100, len(packages)
    for package in packages:
        licence = package["license"] or ""
        if package["source"] and not (licence and holds(licence, allowed)):
            print(f"{package['name']} {package['version']}: {licence or 'says nothing'}")


def main():
    what, paths = sys.argv[1], sys.argv[2:]
    if what == "licences":
        licences(*paths)
    else:
        print(json.dumps(list({"yaml": documents, "manifests": manifests}[what](paths))))


main()
