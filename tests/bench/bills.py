"""Bills of materials, held against the tools of those who made the formats.

Loaded by the test that needs them: 38 parsers, which take a third of the time that pytest needs to
find all tests, in each of its processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def valid_spdx(path: Path) -> Any:
    """Return the document of SPDX's own parser, which finds nothing wrong with it."""
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document = parse_file(str(path))
    assert validate_full_spdx_document(document) == []
    return document


def valid_cyclonedx(text: str) -> dict[str, Any]:
    """Return the document in which CycloneDX's own schema finds nothing wrong."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text, all_errors=True)
    assert [str(each)[:500] for each in errors or ()] == []
    document = json.loads(text)
    assert isinstance(document, dict)
    return document
