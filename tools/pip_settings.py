# SPDX-License-Identifier: Apache-2.0
"""Write pip's settings of this machine as one file, for a build inside an image; print the paths in them.

pip reads several files and the variables PIP_..., which a build inside an image does not have. The file has the output
of `pip config list`; the paths (local indexes, certificates) must be mounted as well.
"""

import ast
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

# The settings for package indexes and connections; a build does not need others.
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
    if "default-timeout" in settings:  # the variable's name; in the file it is timeout
        settings.setdefault("timeout", settings.pop("default-timeout"))
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    sys.stdout.writelines(f"{path}\n" for path in sorted(named_paths(settings)))
    return 0


def named_paths(settings: dict[str, str]) -> set[str]:
    """Local files and folders in the settings; for an index, its parent folder, to which its links point."""
    paths = set()
    for name, value in settings.items():
        for word in value.split():
            local = unquote(urlsplit(word).path) if word.startswith("file://") else word
            if local.startswith("/") and Path(local).exists():
                paths.add(str(Path(local).parent) if name.endswith("index-url") else local)
    return paths


if __name__ == "__main__":
    sys.exit(main())
