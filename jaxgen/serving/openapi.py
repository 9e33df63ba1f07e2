"""The OpenAPI document: what FastAPI makes of the endpoints, with problems and the key."""

from typing import Any

from fastapi import FastAPI

from jaxgen.serving.problems import ProblemDocument


def complete_document(app: FastAPI, *, with_key: bool) -> None:
    """Let an application describe its problem documents too, and the key it asks for."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            components = document.setdefault("components", {})
            problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = components.setdefault("schemas", {})
            schemas |= {**problem.pop("$defs"), "ProblemDocument": problem}
            if with_key:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
