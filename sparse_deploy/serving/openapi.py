# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of a server, with the inputs and outputs of its model."""

from typing import Any

from sparse_deploy import __version__
from sparse_deploy.data.tasks import TaskKind
from sparse_deploy.serving.inference_protocol import MAX_DIMENSIONS, MAX_INPUTS, MAX_NAME
from sparse_deploy.serving.model import VERSION, ServedModel

Schema = dict[str, Any]


def document(model: ServedModel, *, token: bool = False) -> Schema:
    """OpenAPI 3.1 of all routes; with a token where the server requires one."""
    path = f"/v2/models/{model.name}"
    name = {"name": "version", "in": "path", "required": True, "schema": {"enum": [VERSION]}}
    page = {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths: dict[str, Any] = {
        "/v2": _get("Server metadata", _ref("ServerMetadata")),
        "/v2/health/live": _get("Batches are computed", _object({"live": {"type": "boolean"}}), unready=True),
        "/v2/health/ready": _get("New requests are accepted", _object({"ready": {"type": "boolean"}}), unready=True),
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": {"200": page}}},
        "/openapi.json": _get("This document", {"type": "object"}),
    }
    for prefix, parameters in ((path, []), (f"{path}/versions/{{version}}", [name])):
        paths[prefix] = _get("Model metadata", _ref("ModelMetadata"))
        paths[f"{prefix}/ready"] = _get(
            "The model is ready", _object({"name": {"type": "string"}, "ready": {"type": "boolean"}}), unready=True
        )
        paths[f"{prefix}/infer"] = {"post": _infer(model)}
        for suffix in ("", "/ready", "/infer"):
            if parameters:
                paths[f"{prefix}{suffix}"]["parameters"] = parameters
    if model.kind is TaskKind.EMBEDDING:
        paths["/v1/embeddings"] = {"post": _plain("Vectors of texts, in the format of OpenAI's API", _EMBEDDINGS)}
    if model.kind in (TaskKind.RANKING, TaskKind.REGRESSION):
        paths["/rerank"] = {"post": _plain("Documents by relevance, as in text-embeddings-inference", _RERANK)}
    made: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": f"sparse-deploy: {model.name}",
            "version": __version__,
            "description": "Open Inference Protocol v2 with raw text or tensors as inputs.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(model)},
    }
    if token:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made


_TEXTS: Schema = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_EMBEDDINGS: Schema = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {"oneOf": [{"type": "string"}, _TEXTS]},
        "encoding_format": {"enum": ["float", "base64"]},
        "truncate": {"type": "boolean"},
    },
}
_RERANK: Schema = {
    "type": "object",
    "required": ["query", "texts"],
    "properties": {
        "query": {"type": "string"},
        "texts": _TEXTS,
        "raw_scores": {"type": "boolean"},
        "return_text": {"type": "boolean"},
        "truncate": {"type": "boolean"},
    },
}


def _plain(summary: str, schema: Schema) -> Schema:
    reasons = {"400": "The request does not fit the model's inputs", "413": "A text or the request is too long"}
    errors = {code: {"description": text} for code, text in reasons.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "The answer"}, **errors},
    }


def _infer(model: ServedModel) -> Schema:
    errors = {
        "400": "The request does not fit the model's inputs",
        "401": "The token is missing or wrong",
        "404": "No such model or version",
        "408": "The body was sent too slowly",
        "413": "Too many bytes, rows or characters",
        "415": "A compressed body",
        "500": "The model failed",
        "503": "The queue or the memory for requests is full; Retry-After has the time to wait",
        "504": "The time limit of the request is over",
    }
    return {
        "summary": "Answer texts or tensors",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("InferRequest"), "examples": _examples(model)}},
        },
        "responses": {
            "200": {"description": "The answer", "content": {"application/json": {"schema": _ref("InferResponse")}}},
            **{code: _error(text) for code, text in errors.items()},
        },
    }


def _examples(model: ServedModel) -> Schema:
    texts = {
        "text": "a gripping, funny and humane film",
        "text_pair": "a film that is worth its time",
        "question": "Which operator skips zeros?",
        "context": "The sparse operator skips every zero of its weights.",
    }
    names = model.text_inputs[: model.texts_needed]
    inputs = [{"name": name, "datatype": "BYTES", "shape": [1], "data": [texts[name]]} for name in names]
    tensors = [
        {"name": name, "datatype": "INT64", "shape": [1, 3], "data": values}
        for name, values in zip(model.tensor_inputs, ([101, 2023, 102], [1, 1, 1], [0, 0, 0]), strict=False)
    ]
    return {"texts": {"value": {"inputs": inputs}}, "tensors": {"value": {"inputs": tensors}}}


def _schemas(model: ServedModel) -> Schema:
    string = {"type": "string"}
    metadata = _object({"name": string, "datatype": string, "shape": {"type": "array", "items": {"type": "integer"}}})
    shape = {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        "minItems": 1,
        "maxItems": MAX_DIMENSIONS,
    }
    texts = _input([*model.text_inputs], "BYTES", shape, {"type": "string"})
    tensors = _input([*model.tensor_inputs], "INT64", shape, {"type": "integer", "minimum": 0})
    optional = {"type": ["object", "null"]}
    name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
    output = {"type": "object", "required": ["name"], "properties": {"name": name, "parameters": optional}}
    return {
        "ServerMetadata": _object(
            {"name": string, "version": string, "extensions": {"type": "array", "items": string}}
        ),
        "ModelMetadata": _object(
            {
                "name": string,
                "versions": {"type": "array", "items": string},
                "platform": string,
                "inputs": {"type": "array", "items": metadata},
                "outputs": {"type": "array", "items": metadata},
            }
        ),
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": ["string", "null"], "maxLength": MAX_NAME},
                "inputs": _list({"oneOf": [texts, tensors]}),
                "outputs": {**_list(output), "type": ["array", "null"]},
                "parameters": {**optional, "description": "timeout: time limit of the client in microseconds"},
            },
        },
        "InferResponse": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs"],
            "properties": {
                "id": string,
                "model_name": {"const": model.name},
                "model_version": {"const": VERSION},
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "datatype", "shape"],
                        "properties": {
                            "name": {"enum": [tensor["name"] for tensor in model.metadata()["outputs"]]},
                            "datatype": {"enum": ["BYTES", "FP32", "INT64"]},
                            "shape": {"type": "array", "items": {"type": "integer"}},
                            "data": {"type": "array"},
                            "parameters": {"type": "object"},
                        },
                    },
                },
            },
        },
        "Error": _object({"error": string}),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": items}


def _input(names: list[str], datatype: str, shape: Schema, items: Schema) -> Schema:
    data = {"type": "array", "items": {"anyOf": [items, {"type": "array", "items": items}]}}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"enum": names},
            "datatype": {"const": datatype},
            "shape": shape,
            "data": data,
            "parameters": {"type": ["object", "null"]},
        },
    }


def _get(summary: str, schema: Schema, *, unready: bool = False) -> Schema:
    content = {"application/json": {"schema": schema}}
    responses: dict[str, Any] = {"200": {"description": summary, "content": content}}
    responses["404"] = _error("No such model or version")
    if unready:
        responses["503"] = {
            "description": "The server is shutting down, or its model does not respond",
            "content": content,
        }
    else:
        responses["401"] = _error("The token is missing or wrong")
    return {"get": {"summary": summary, "responses": responses}}


def _error(text: str) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
