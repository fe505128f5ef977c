# SPDX-License-Identifier: Apache-2.0
"""Write pip's settings of this machine as one file, for a build that starts without them; print the paths they name.

pip reads several files and the variables PIP_...; a build inside an image sees none of them. The file has the
output of `pip config list`, and the paths (local indexes, certificates) must be mounted beside it.
"""

import ast
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Settings of pip for the location of packages and the connection; others have no use in a build.
_WANTED = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy", "default-timeout", "timeout")


def main() -> int:
    """Write the file named on the command line; print a path per line."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.removeprefix(":env:.").removeprefix("global.").removeprefix("install.")
        if name in _WANTED:
            settings.setdefault(name, str(ast.literal_eval(value)))
    if "default-timeout" in settings:  # the name of the variable; the file has timeout
        settings.setdefault("timeout", settings.pop("default-timeout"))
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    sys.stdout.writelines(f"{path}\n" for path in sorted(named_paths(settings)))
    return 0


def named_paths(settings: dict[str, str]) -> set[str]:
    """Local files and folders that the settings name; of an index, the folder above it, for its links lead there."""
    paths = set()
    for name, value in settings.items():
        for word in value.split():
            local = unquote(urlsplit(word).path) if word.startswith("file://") else word
            if local.startswith("/") and Path(local).exists():
                paths.add(str(Path(local).parent) if name.endswith("index-url") else local)
    return paths


if __name__ == "__main__":
    sys.exit(main())
