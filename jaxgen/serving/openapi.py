"""The application class: its OpenAPI document also has the problem documents and the key."""

from typing import Any

from fastapi import FastAPI

from jaxgen.serving.problems import ProblemDocument
from jaxgen.serving.service import Service


class Application(FastAPI):
    """An application of `jaxgen.serving.app.create_app`."""

    def openapi(self) -> dict[str, Any]:
        """What FastAPI makes of the endpoints, completed."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        components = document.setdefault("components", {})
        problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = components.setdefault("schemas", {})
        schemas |= {**problem.pop("$defs"), "ProblemDocument": problem}
        service: Service = self.state.service
        if service.options.api_key is not None:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return document
