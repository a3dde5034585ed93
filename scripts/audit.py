"""audit.py TOOLS SUBJECT OUT: what is known of the packages in the environment of the Python SUBJECT.

OUT/licences.csv           each package's licence; one that may not be shipped with a server ends with an error
OUT/sbom.json              the bill of materials, CycloneDX
OUT/vulnerabilities.json   pip-audit's answer; a known vulnerability ends with an error, and so does a package of which
                           the advisory service says nothing: not asked is not clean

TOOLS is the environment of the tools, apart from what they look at.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = {"ofa-triton", "ofa-client"}
FORBIDDEN = ("Affero", "AGPL", "GPL-2.0-only", "GPL-3.0-only", "GPL-3.0-or-later", "GPLv3", "GPLv2")
WHOLE = 20


def main() -> int:
    """Makes the three files, says what they hold, and returns the exit code."""
    tools, subject, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    run(ROOT / "scripts/venv", sys.executable, tools)
    run(tools / "bin/pip", "install", "-q", "-r", ROOT / "requirements/audit.txt")
    out.mkdir(parents=True, exist_ok=True)
    findings = [*licences(tools, subject, out / "licences.csv"), *vulnerabilities(tools, subject, out)]
    run(tools / "bin/cyclonedx-py", "environment", subject, "--output-format", "JSON", "-o", out / "sbom.json")
    say(f"bill of materials: {len(json.loads((out / 'sbom.json').read_text())['components'])} components")
    for finding in findings:
        say(f"FAILED: {finding}")
    return 1 if findings else 0


def licences(tools: Path, subject: str, path: Path) -> list[str]:
    """Writes the list; what in it may not be shipped."""
    command = (tools / "bin/pip-licenses", "--python", subject, "--from", "mixed", "--with-urls")
    path.write_text(run(*command, "--format", "csv"))
    packages = json.loads(run(*command, "--format", "json"))
    silent = [package["Name"] for package in packages if package["License"] == "UNKNOWN"]
    say(f"licences: {len(packages)} packages; their own files do not say those of: {', '.join(silent) or 'none'}")
    return [
        f"{package['Name']} is under {package['License']}"
        for package in packages
        if any(word in package["License"] for word in FORBIDDEN)
    ]


def vulnerabilities(tools: Path, subject: str, out: Path) -> list[str]:
    """Asks the advisory service about every package that came from an index."""
    frozen = [line for line in run(subject, "-m", "pip", "freeze", "--exclude-editable").split("\n") if "==" in line]
    pins = [line.replace("+cpu", "") for line in frozen if line.partition("==")[0] not in OWN]
    (out / "packages.txt").write_text("\n".join(pins) + "\n")
    answer = out / "vulnerabilities.json"
    answer.unlink(missing_ok=True)
    command = [tools / "bin/pip-audit", "--no-deps", "--disable-pip", "--requirement", out / "packages.txt"]
    asked = subprocess.run(
        [*command, "--format", "json", "--desc", "off", "--output", answer], capture_output=True, text=True, check=False
    )
    if not answer.exists():
        return [f"the advisory service did not answer: {asked.stderr.strip().rpartition(chr(10))[2]}"]
    packages = json.loads(answer.read_text())["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    say(f"vulnerabilities: {len(known)} of {len(packages)} packages are known to the advisory service")
    found = [
        f"{package['name']} {package['version']} has {', '.join(found['id'] for found in package['vulns'])}"
        for package in known
        if package["vulns"]
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        shown = ", ".join(unknown[:WHOLE]) + (", ..." if len(unknown) > WHOLE else "")
        found.append(
            f"nothing is known of {len(unknown)} packages, for the service did not answer or lacks them: {shown}"
        )
    return found


def run(*command: object) -> str:
    """The standard output of a command, which must succeed."""
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def say(text: str) -> None:
    """A line for people."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
