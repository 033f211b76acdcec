"""Holds a server to the OpenAPI document that it serves.

    openapi.py ADDRESS

Checks the document against the OpenAPI 3.1 specification, then asks every path that needs no parameters, and registers a
replica, and checks each answer against the schema that the document has for it. Prints what was checked, a line each;
ends with 1 and the reason at the first answer that is not as described.
"""

import json
import sys
import urllib.error
import urllib.request

from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

TIMEOUT = 10


def ask(address, method, path, body=None):
    """Makes one request; returns the status, the media type and the JSON."""
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("content-type", "application/json")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers.get_content_type(), json.load(answer)


def check(document, address, method, path, body=None, at=None):
    """Makes one request and checks its answer; `at` is its path in the document, when that has fields."""
    status, media_type, answer = ask(address, method, path, body)
    responses = document["paths"][at or path][method.lower()]["responses"]
    response = responses.get(str(status)) or responses["default"]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    # With the components beside it, its references lead where they do in the document.
    schema = {"components": document["components"], **response["content"][media_type]["schema"]}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(answer)
    print(method, path, status)


def main():
    address = sys.argv[1]
    document = ask(address, "GET", "/openapi.json")[2]
    OpenAPIV31SpecValidator(document).validate()
    print("valid", document["openapi"])

    replicas = "/v1/services/{service}/replicas"
    body = {"replicaId": "r-9", "endpoint": {"address": "127.0.0.1:9009"}, "leaseTtl": "60s"}
    Draft202012Validator(
        {"components": document["components"], "$ref": "#/components/schemas/RegisterRequest"}
    ).validate(body)
    check(document, address, "POST", "/v1/services/orders/replicas", body, replicas)
    check(document, address, "POST", "/v1/services/orders/replicas", body, replicas)
    check(document, address, "POST", "/v1/services/Orders/replicas", body, replicas)
    check(document, address, "GET", "/v1/services/orders/replicas", None, replicas)
    check(document, address, "GET", "/v1/services/orders/replicas/r-9", None, replicas + "/{replicaId}")
    policy = {"breaker": {"failureRatio": 0.25}, "retry": {"maxRetryCount": 1}}
    check(document, address, "PUT", "/v1/policies/orders", policy, "/v1/policies/{service}")
    check(document, address, "GET", "/v1/policies/orders:resolve", None, "/v1/policies/{service}:resolve")

    for path, item in document["paths"].items():
        is_stream = path.endswith(":watch")
        if "get" in item and "{" not in path and not is_stream:
            check(document, address, "GET", path)


main()
