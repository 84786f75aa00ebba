"""Java artefacts through Maven's own client, by coordinates, checksums enforced."""

from pathlib import Path
from typing import List, Sequence

from . import files, tools

DEPENDENCY_PLUGIN = "3.8.1"
# The last line of the plugin that copies a file without first resolving the parents that its
# description names; newer ones fail where a parent was never published.
COPY_PLUGIN = "2.8"
JAVA_NEEDED = 17

_POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>varta.stack</groupId>
  <artifactId>fetch</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
  <build><plugins><plugin>
    <artifactId>maven-dependency-plugin</artifactId>
    <version>{plugin}</version>
  </plugin></plugins></build>
</project>
"""


def fetch_with_dependencies(coordinates: Sequence[str], target: Path) -> None:
    """Copy artefacts (`group:name:version`) and all that they need at run time into `target`."""
    pom = target / "pom.xml"
    files.write(pom, _POM.format(dependencies="\n".join(map(_dependency, coordinates)), plugin=DEPENDENCY_PLUGIN))
    goal = ["-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    tools.run([*_maven(), *goal], folder=target)
    pom.unlink()


def fetch_alone(coordinate: str, target: Path) -> None:
    """Copy one file (`group:name:version:type:classifier`), whatever its description says."""
    goal = f"org.apache.maven.plugins:maven-dependency-plugin:{COPY_PLUGIN}:copy"
    tools.run([*_maven(), goal, f"-Dartifact={coordinate}", f"-DoutputDirectory={target}"], folder=target)


def _maven() -> List[str]:
    program = tools.require("mvn", "to fetch Java servers", "Install Maven 3.8 or newer (Debian: maven).")
    return [program, "--batch-mode", "--quiet", "--strict-checksums"]


def java() -> str:
    advice = f"Install a JDK {JAVA_NEEDED} or newer (Debian: openjdk-17-jdk)."
    return tools.require("java", "to run Java servers", advice)


def _dependency(coordinate: str) -> str:
    names = ("groupId", "artifactId", "version")
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, coordinate.split(":")))
    return f"    <dependency>{inner}</dependency>"
