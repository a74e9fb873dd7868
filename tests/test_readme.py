"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.route.rules import load_checked

README = Path(__file__).parents[1] / "README.md"


def test_the_site_of_the_readme_is_a_valid_configuration(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    text = blocks[0].replace("/var/lib/miad-gateway", tmp_path.as_posix())
    path = tmp_path / "site.toml"
    path.write_text(text)
    site = load_checked(path)
    assert [rule.protect for rule in site.routing.rules] == [True]


def test_every_document_the_readme_names_exists() -> None:
    names = re.findall(r"\]\(([\w./-]+\.md)\)", README.read_text())
    assert names
    missing = [name for name in names if not (README.parent / name).exists()]
    assert missing == []
