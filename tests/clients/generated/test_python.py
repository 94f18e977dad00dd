"""Clients for Python, Java and Go, from generators that PyPI has."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import DOCUMENTS, HERE, PROGRAMS, Serve, Tools
from .job import ODD, run_a_job

Installed = Callable[[str, str, str], str]
pytestmark = pytest.mark.timeout(300)

CODE_ONLY = "apis,models,supportingFiles,apiTests=false,modelTests=false,apiDocs=false,modelDocs=false"


async def generate(tools: Tools, language: str, folder: Path, **properties: str) -> None:
    """Generate the clients of both documents with openapi-generator."""

    async def one(name: str, document: Path) -> None:
        given = ",".join(f"{key}={value.format(name=name)}" for key, value in properties.items())
        out = await tools.run(
            *("openapi-generator-cli", "generate", "--generator-name", language, "--input-spec", document),
            *("--output", folder / name, "--additional-properties", given, "--global-property", CODE_ONLY),
            *(("--type-mappings", "AnyType=RawJSON") if language == "go" else ()),
        )
        assert "ERROR" not in out, out

    await asyncio.gather(*(one(name, document) for name, document in DOCUMENTS.items()))


async def test_openapi_python_client(serve: Serve, python_tools: Tools, tmp_path: Path) -> None:
    """Nothing is left out of its clients, a program that uses them has the right types, and it does a whole job."""
    for name, document in DOCUMENTS.items():
        out = await python_tools.run(
            *("openapi-python-client", "generate", "--path", document, "--meta", "none"),
            *("--output-path", tmp_path / f"{name}_api", "--config", HERE / "openapi_python_client.yaml"),
        )
        assert "Warning" not in out, out
    await checked(python_tools, tmp_path, "openapi_python_client.py")
    program = ("python", PROGRAMS / "openapi_python_client.py")
    await run_a_job(serve, python_tools, program, tmp_path, PYTHONPATH=str(tmp_path))


async def test_openapi_generator_for_python(serve: Serve, python_tools: Tools, tmp_path: Path) -> None:
    """A program that uses its clients has the right types, and does a whole job."""
    await generate(python_tools, "python", tmp_path, packageName="{name}_api")
    path = ":".join(str(tmp_path / name) for name in DOCUMENTS)
    await checked(python_tools, tmp_path, "openapi_generator.py", MYPYPATH=path)
    await run_a_job(serve, python_tools, ("python", PROGRAMS / "openapi_generator.py"), tmp_path, PYTHONPATH=path)


async def checked(tools: Tools, folder: Path, program: str, **environment: str) -> None:
    """Check the types of a program against its generated clients."""
    command = ("mypy", "--strict", "--follow-imports=silent", "--cache-dir", folder / "mypy", PROGRAMS / program)
    await tools.run(*command, folder=folder, **environment)


async def test_openapi_generator_for_java(
    serve: Serve, python_tools: Tools, installed: Installed, tmp_path: Path
) -> None:
    """Its clients compile with a program that uses them, and the program does a whole job."""
    installed("default-jdk-headless", "javac", "javac")
    names = {"apiPackage": "{name}.api", "modelPackage": "{name}.model", "invokerPackage": "{name}"}
    await generate(python_tools, "java", tmp_path, library="native", openApiNullable="false", **names)
    [jar] = python_tools.folder.rglob("openapi-generator.jar")  # it has Jackson, which the clients need
    annotation = tmp_path / "Generated.java"
    annotation.write_text(
        "package javax.annotation; public @interface Generated {"
        ' String[] value(); String date() default ""; String comments() default ""; }'
    )
    sources = [PROGRAMS / "GeneratedWorker.java", annotation]
    for name in DOCUMENTS:
        sources += (tmp_path / name / "src/main").rglob("*.java")
    classes = tmp_path / "classes"
    await python_tools.run("javac", "-nowarn", "-cp", jar, "-d", classes, *sources)
    program = ("java", "-cp", f"{classes}:{jar}", "GeneratedWorker")
    await run_a_job(serve, python_tools, program, tmp_path, odd=ODD[:-1] + ', "huge": 1e400}')


async def test_openapi_generator_for_go(
    serve: Serve, python_tools: Tools, installed: Installed, tmp_path: Path
) -> None:
    """Its clients compile with a program that uses them, and the program keeps numbers of any size byte for byte."""
    installed("golang-go", "go", "go")
    await generate(python_tools, "go", tmp_path, packageName="{name}", withGoMod="false", generateUnmarshalJSON="false")
    for name in DOCUMENTS:
        alias = f'package {name}\n\nimport "encoding/json"\n\ntype RawJSON = json.RawMessage\n'
        (tmp_path / name / "raw.go").write_text(alias)
    update = tmp_path / "worker" / "model_update_job.go"
    update.write_text(update.read_text().replace('\t"fmt"\n', ""))  # it is imported and not used
    # The only module that the clients need, without what they do not use of it.
    validator = tmp_path / "validator"
    validator.mkdir()
    (validator / "go.mod").write_text("module gopkg.in/validator.v2\n\ngo 1.19\n")
    (validator / "validator.go").write_text("package validator\n\nfunc Validate(any) error { return nil }\n")
    (tmp_path / "go.mod").write_text(
        "module generated\n\ngo 1.19\n\nrequire gopkg.in/validator.v2 v2.0.0\n\n"
        "replace gopkg.in/validator.v2 => ./validator\n"
    )
    (tmp_path / "main.go").write_text((PROGRAMS / "main.go").read_text())
    offline = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    await python_tools.run("go", "vet", ".", "./worker", "./composer", folder=tmp_path, **offline)
    await python_tools.run("go", "build", "-o", "program", ".", folder=tmp_path, **offline)
    await run_a_job(serve, python_tools, (tmp_path / "program",), tmp_path, odd=ODD[:-1] + ', "huge": 1e400}')


async def test_datamodel_code_generator(serve: Serve, python_tools: Tools, tmp_path: Path) -> None:
    """Its models take a job as it is, with nulls in required fields, and the server takes the nulls that they write."""
    for name, document in DOCUMENTS.items():
        await python_tools.run(
            *("datamodel-codegen", "--input", document, "--input-file-type", "openapi", "--formatters", "builtin"),
            *("--output-model-type", "pydantic_v2.BaseModel", "--output", tmp_path / f"{name}.py"),
        )
    server = await serve()

    async def written(expression: str) -> Any:
        """Return what a model writes as JSON."""
        script = f"import composer, worker; print({expression}.model_dump_json())"
        return json.loads(await python_tools.run("python", "-c", script, PYTHONPATH=str(tmp_path)))

    submission = await written("composer.SubmitJob(type='build')")
    assert submission["priority"] is None
    job = await server.submit(**submission)
    request = await written("worker.RequestJob(types=['build'], arch='x86_64')")
    attempt = await server.ask(**{name: value for name, value in request.items() if name != "types"})
    assert attempt is not None
    for update in ("worker.ReportProgress(partial=1)", "worker.FinishJob(result=1)"):
        body = await written(f"worker.UpdateJob({update})")
        assert (await server.request("PATCH", attempt["location"], body))[0] == 200
    job = await server.job(job["id"])
    assert (job["state"], job["partial"], job["result"]) == ("finished", None, 1)
    read = await written(f"composer.Job.model_validate({job!r})")
    assert {name: read[name] for name in ("id", "arch", "not_before", "result")} == {
        name: job[name] for name in ("id", "arch", "not_before", "result")
    }
