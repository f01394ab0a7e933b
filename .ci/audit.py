"""Look up the known vulnerabilities of the pinned dependencies: `make audit`.

pip-audit asks PyPI. Where that does not answer, or a mirror stands in its place that knows no
vulnerabilities, nothing is audited: that is said, and is no failure. Dependencies that were not
found are told by name, for pip-audit itself counts them as passed.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

SERVICE = "https://pypi.org/pypi/pip/json"
"""Facts on a package that is always there; vulnerabilities are among them."""
PATIENCE = 20
"""Seconds until the service counts as silent."""


def unreachable() -> str | None:
    """Return why the service cannot be asked, or None where it can."""
    try:
        with urllib.request.urlopen(SERVICE, timeout=PATIENCE) as answer:
            told = json.load(answer)
    except (OSError, ValueError) as error:
        return f"{SERVICE} does not answer: {getattr(error, 'reason', error)}"
    if not isinstance(told, dict) or "vulnerabilities" not in told:
        return f"{SERVICE} tells of no vulnerabilities: it is a mirror"
    return None


def report(dependencies: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return what is to be said of the dependencies, and how many of them are vulnerable."""
    lines, vulnerable = [], 0
    if skipped := [one["name"] for one in dependencies if "skip_reason" in one]:
        lines.append(f"not found, and not audited: {', '.join(skipped)}")
    for one in dependencies:
        name = f"{one['name']} {one.get('version', '')}".strip()
        vulnerable += bool(one.get("vulns"))
        for found in one.get("vulns", []):
            fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
            lines.append(f"vulnerable: {name}: {found['id']}, fixed in {fixed}")
    return lines, vulnerable


def main(constraints: str = "constraints.txt") -> int:
    """Audit the constraints; return the exit status: 1 where something is vulnerable."""
    if why := unreachable():
        print(f"SKIPPED: nothing was audited. {why}.")
        return 0
    command = ["pip_audit", "--requirement", constraints, "--no-deps", "--disable-pip"]
    options = ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(
        [sys.executable, "-m", *command, *options], capture_output=True, text=True
    )
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (KeyError, ValueError):
        print(f"pip-audit failed with status {done.returncode}:\n{done.stderr}", file=sys.stderr)
        return 2
    lines, vulnerable = report(dependencies)
    if all("skip_reason" in one for one in dependencies):
        print(f"SKIPPED: nothing was audited. None of {len(dependencies)} dependencies was found.")
        return 0
    print("\n".join([*lines, f"{len(dependencies)} dependencies, {vulnerable} vulnerable"]))
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
