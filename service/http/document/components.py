"""The schemas of the OpenAPI document's components, made from the models of bodies and answers."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from service.domain.errors import ServiceError, all_errors
from service.http.problem_schemas import PROBLEMS, ProblemAnswer
from service.http.schemas import Answer
from service.input.bodies import Body

REF = "#/components/schemas/{model}"


def component_schemas(
    bodies: Iterable[type[Body]],
    answers: Iterable[type[Answer]],
    listed: Iterable[type[Answer]],
) -> dict[str, Any]:
    """Return the schemas of these models and of a page of each `listed` one, by their names."""
    problems: list[type[Answer]] = [ProblemAnswer, *PROBLEMS.values()]
    incoming: dict[type[BaseModel], Any] = dict.fromkeys(bodies, "validation")
    outgoing: dict[type[BaseModel], Any] = dict.fromkeys([*answers, *problems], "serialization")
    models = [*incoming.items(), *outgoing.items()]
    _, made = models_json_schema(models, ref_template=REF, schema_generator=_Schemas)
    pages = {page_name(model): _page(model) for model in listed}
    schemas = {**made["$defs"], **pages, "ErrorCode": _error_code()}
    _tell_apart(schemas["Problem"])
    return dict(sorted(schemas.items()))


class _Schemas(GenerateJsonSchema):
    """Pydantic's generator, without titles and defaults.

    Some generators of clients treat a member with a default as required. A default of null would
    also make their clients send null where they should leave the member out.
    """

    def normalize_name(self, name: str) -> str:
        """Return a component's name: its model's, without the word for an answer."""
        return super().normalize_name(name.removesuffix("Answer"))

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema of the value alone."""
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Return False: the name of a member is enough."""
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return a model's schema, whose title would repeat the component's name."""
        made = super().model_schema(schema)
        made.pop("title", None)
        return made


def ref(model: type[BaseModel]) -> dict[str, Any]:
    """Return a reference to a model's schema."""
    return {"$ref": REF.format(model=_name(model))}


def page_ref(model: type[BaseModel]) -> dict[str, Any]:
    """Return a reference to the schema of a page of a list."""
    return {"$ref": REF.format(model=page_name(model))}


def page_name(model: type[BaseModel]) -> str:
    """Return the name of the schema of a page of a list."""
    return f"{_name(model)}Page"


def problem_of(errors: Sequence[type[ServiceError]]) -> dict[str, Any]:
    """Return the schema of a problem document of any of these errors; `code` tells which."""
    refs = {error.code: ref(PROBLEMS[error])["$ref"] for error in errors}
    if len(refs) == 1:
        return {"$ref": refs[errors[0].code]}
    return {
        "oneOf": [{"$ref": each} for each in refs.values()],
        "discriminator": {"propertyName": "code", "mapping": refs},
    }


def _name(model: type[BaseModel]) -> str:
    return model.__name__.removesuffix("Answer")


def _page(model: type[Answer]) -> dict[str, Any]:
    return {
        "description": "A page of a list.",
        "type": "object",
        "required": ["items", "next_cursor"],
        "properties": {
            "items": {"type": "array", "items": ref(model)},
            "next_cursor": {
                "description": "The `cursor` of the next page; null on the last one.",
                "type": ["string", "null"],
            },
        },
    }


def _tell_apart(problem: dict[str, Any]) -> None:
    """Declare that each problem document has the schema of one of the errors."""
    problem["properties"]["code"] = {"$ref": REF.format(model="ErrorCode")}
    problem["oneOf"] = [ref(PROBLEMS[error]) for error in all_errors()]


def _error_code() -> dict[str, Any]:
    return {
        "description": "The codes of errors. Others may be added.",
        "type": "string",
        "enum": [error.code for error in all_errors()],
    }
