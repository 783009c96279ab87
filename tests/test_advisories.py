"""No dependency is below the floor of `advisories.toml`: its lowest version that is safe.

Each check has a test that plants an error and expects the check to find it.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

Advisories: TypeAlias = Mapping[str, Mapping[str, str]]
READ = tomllib.loads((ROOT / "advisories.toml").read_text())
FLOOR: Advisories = READ["floor"]
ACCEPTED: Advisories = READ["accepted"]


def locked(lock: str) -> dict[str, Version]:
    """The version of each dependency in a lock file."""
    found = re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock, flags=re.MULTILINE)
    return {name: Version(version) for name, version in found}


ALL_LOCKED = {
    name: version for path in LOCKS for name, version in locked((ROOT / path).read_text()).items()
}


def below(versions: Mapping[str, Version], floor: Advisories) -> list[str]:
    """The dependencies whose version is below the floor, each with its advisory."""
    return [
        f"{name} {version} is below {floor[name]['safe_from']} ({floor[name]['advisory']})"
        for name, version in versions.items()
        if name in floor and version < Version(floor[name]["safe_from"])
    ]


def lower_bounds(project: Mapping[str, Any]) -> list[tuple[str, Version]]:
    """The lowest version of each requirement of a project, in all its groups and extras."""
    listed = [
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
        *(each for group in project["dependency-groups"].values() for each in group),
        *project["build-system"]["requires"],
    ]
    found = []
    for requirement in map(Requirement, listed):
        bounds = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        lowest = max(map(Version, bounds), default=Version("0"))
        found.append((canonicalize_name(requirement.name), lowest))
    return found


@pytest.mark.parametrize("path", LOCKS)
def test_no_locked_version_is_below_the_floor(path):
    versions = locked((ROOT / path).read_text())
    assert len(versions) > 40
    assert below(versions, FLOOR) == []


def test_a_locked_version_below_the_floor_is_found():
    lock = "pydantic-settings==2.14.1 \\\n    --hash=sha256:0\nclick==8.5.1\n# click==1.0\n"
    assert below(locked(lock), FLOOR) == [
        "pydantic-settings 2.14.1 is below 2.14.2 (GHSA-4xgf-cpjx-pc3j)"
    ]


def test_no_lower_bound_of_the_project_is_below_the_floor():
    """A user who installs the oldest versions that are allowed gets safe ones."""
    bounds = lower_bounds(PROJECT)
    assert {"pydantic-settings", "pyjwt", "setuptools", "pytest"} <= {name for name, _ in bounds}
    for name, version in bounds:
        assert below({name: version}, FLOOR) == []


def test_a_lower_bound_below_the_floor_is_found():
    project = {
        "project": {
            "dependencies": ["Pydantic_Settings>=2.14.1,<3; sys_platform == 'linux'", "litestar"],
            "optional-dependencies": {"jwt": ["pyjwt[crypto]>=2.12"]},
        },
        "dependency-groups": {"dev": ["pytest>=9.0.3"]},
        "build-system": {"requires": ["setuptools>=83"]},
    }
    found = [each for bound in lower_bounds(project) for each in below(dict([bound]), FLOOR)]
    assert [each.split()[0] for each in found] == ["pydantic-settings", "litestar", "pyjwt"]


def not_locked(advisories: Advisories, versions: Mapping[str, Version]) -> list[str]:
    return [name for name in advisories if name not in versions]


def test_the_floor_names_only_dependencies_that_we_have():
    assert not_locked({**FLOOR, **ACCEPTED}, ALL_LOCKED) == []


def test_a_line_for_a_dependency_that_we_do_not_have_is_found():
    assert not_locked({"leftpad": {}}, ALL_LOCKED) == ["leftpad"]


def test_every_line_has_a_version_an_advisory_and_a_reason():
    for name, line in [*FLOOR.items(), *ACCEPTED.items()]:
        assert set(line) == {"safe_from", "advisory", "reason"}, name
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", line["advisory"]), name
        assert line["reason"].endswith((".", ".)")), name


def outdated(accepted: Advisories, versions: Mapping[str, Version]) -> list[str]:
    """The accepted advisories whose fix is locked: they belong to the floor."""
    return [name for name, line in accepted.items() if versions[name] >= Version(line["safe_from"])]


def test_an_accepted_advisory_is_not_fixed_in_the_locked_version():
    assert outdated(ACCEPTED, ALL_LOCKED) == []


def test_an_accepted_advisory_that_is_fixed_is_found():
    assert outdated({"click": {"safe_from": "8.0"}}, ALL_LOCKED) == ["click"]
