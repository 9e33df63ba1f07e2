"""Print pyproject.toml's dependencies, each at its lower bound, as pip requirements."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
    print(re.sub(r">=([^,]+).*", r"==\1", requirement))
