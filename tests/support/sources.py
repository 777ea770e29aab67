"""The files of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(file for folder in ("registry", "client", "migrations") for file in (ROOT / folder).rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROSE = "\n".join([README, *(file.read_text("utf-8") for file in PAGES)])
