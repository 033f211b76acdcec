//! What the document says of paths that no RPC stands behind.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;

/// Adds them.
pub(super) fn add(paths: &mut Map<String, Value>, schemas: &mut Schemas<'_>) {
    let problem = problem_schema();
    schemas.add("Problem", problem);
    let statistics = schemas.add("Statistics", statistics_schema());
    paths.insert("/register".into(), json!({"post": register(), "delete": deregister()}));
    let window = json!({
        "in": "query",
        "name": "window",
        "required": false,
        "schema": {"type": "string", "examples": ["5s"]},
        "description": "Looks for so long before it answers, 1s..=60s: only while somebody looks do data planes count \
            latencies of replicas.",
    });
    let statistics = |operation: &str, summary: &str| {
        json!({
            "operationId": operation,
            "tags": ["Statistics"],
            "summary": summary,
            "parameters": [window],
            "responses": {
                "200": {"description": "Done.", "content": {"application/json": {"schema": statistics}}},
                "default": {"$ref": "#/components/responses/Problem"},
            },
        })
    };
    paths.insert(
        "/statistics".into(),
        json!({"get": statistics("GetStatistics", "How each replica of every service does")}),
    );
    paths.insert("/whoami".into(), json!({"get": whoami()}));
    let mut of_service = statistics("GetServiceStatistics", "How each replica of a service does");
    of_service["parameters"] =
        json!([{"in": "path", "name": "service", "required": true, "schema": {"type": "string"}}, window]);
    paths.insert("/statistics/{service}".into(), json!({"get": of_service}));
}

fn whoami() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "authentication": {"type": "boolean", "description": "Whether callers are asked who they are."},
            "name": {"type": ["string", "null"], "description": "What the caller goes by; null when nobody knows him."},
            "kind": {"type": "string", "enum": ["token", "certificate", "jwt"]},
            "from": {"type": ["string", "null"], "description": "His address."},
            "may": {"type": "array", "items": {"type": "string"}, "description": "For people."},
            "grants": {"type": "array", "items": {"type": "object"}},
            "expires": {"type": ["string", "null"], "format": "date-time"},
            "detail": {"type": "string", "description": "Why nobody knows him, or nobody is asked."},
        },
        "required": ["authentication", "name", "from", "may"],
    });
    json!({
        "operationId": "WhoAmI",
        "tags": ["Access"],
        "summary": "Who the caller is, and what he may do",
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": schema}}},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    })
}

fn register() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "service": {"type": "string"},
            "address": {"type": "string", "description": "\"host:port\"; \":port\" takes the caller's address."},
            "protocol": {
                "type": "string",
                "enum": ["http1", "h2c", "tls"],
                "description": "What it understands; without it, HTTP/1.1.",
            },
            "tls_server_name": {
                "type": "string",
                "description": "With \"tls\": the name that its certificate must have, if not the host of the address.",
            },
            "lease_ttl": {
                "type": "string",
                "description": "Asks for a lease, such as \"30s\" or \"1m 30s\"; without it, the replica stays until \
                    it is deregistered.",
            },
        },
        "required": ["service", "address"],
        "additionalProperties": false,
    });
    let response = json!({"$ref": "#/components/schemas/RegisterResponse"});
    let content =
        json!({"application/json": {"schema": response}, "text/plain": {"schema": {"type": "string"}}});
    json!({
        "operationId": "RegisterAddress",
        "tags": ["RegistryService"],
        "summary": "Registers a service's address: the short form",
        "requestBody": {"required": true, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": {"description": "It was known.", "content": content},
            "201": {"description": "It is new.", "content": content},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    })
}

fn deregister() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"service": {"type": "string"}, "address": {"type": "string"}},
        "required": ["service", "address"],
        "additionalProperties": false,
    });
    json!({
        "operationId": "DeregisterAddress",
        "tags": ["RegistryService"],
        "summary": "Removes whatever replica of the service is reached at the address",
        "requestBody": {"required": true, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "204": {"description": "It is gone, or never was there."},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    })
}

fn statistics_schema() -> Value {
    let entries =
        |comment: &str| json!({"type": "array", "items": {"type": "string"}, "description": comment});
    json!({
        "type": "object",
        "description": "An entry for each replica in each array, in the same order: \"http://HOST:PORT VALUE\".",
        "properties": {
            "SUCCESS_COUNT": entries("Attempts that went well, of all data planes since each first saw the replica."),
            "ERROR_COUNT": entries("Attempts that failed by the replica's fault."),
            "COOLDOWNS": entries("Whether its breaker is open on some data plane."),
            "LATENCY": entries("With a window: the median in milliseconds, of replicas that had requests in it."),
            "LATENCY_P99": entries("With a window: what one of a hundred exceeds, as above."),
        },
        "required": ["SUCCESS_COUNT", "ERROR_COUNT", "COOLDOWNS"],
    })
}

/// What every error is.
pub(super) fn problem_response() -> Value {
    json!({
        "description": "It is not done, and why.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    })
}

fn problem_schema() -> Value {
    let text = |comment: &str| json!({"type": "string", "description": comment});
    json!({
        "type": "object",
        "description": "RFC 9457, with what gRPC callers are told, too.",
        "properties": {
            "type": text("Always \"about:blank\"."),
            "title": text("The status in words."),
            "status": {"type": "integer", "description": "The HTTP status."},
            "detail": text("What failed, why, and what to do next."),
            "code": text("The gRPC code, e.g. \"NOT_FOUND\"."),
            "reason": text("UPPER_SNAKE_CASE; programs may match on it."),
            "domain": text("Whose reason it is: \"gateway.v1\"."),
            "violations": {
                "type": "array",
                "description": "Every field at fault.",
                "items": {
                    "type": "object",
                    "properties": {
                        "field": text("Its path."),
                        "description": text("What is wrong and what is allowed."),
                    },
                    "required": ["field", "description"],
                },
            },
        },
        "required": ["type", "title", "status", "detail", "code", "reason", "domain", "violations"],
    })
}
