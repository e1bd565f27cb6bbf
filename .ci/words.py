"""Words that texts for users avoid, and what to write instead: python .ci/words.py [FILE ...]"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WORDS = {
    r"data sets?": "dataset", r"cards?": "dataset config", r"feature stores?": "feature file",
    r"(?:train(?:ing)?|validation|test|development|seen|unseen) parts?": "split",
    r"(?:reported|joint) views?|views(?! of tensors)": "output",
    r"(?:word|class|training) vectors?|vectors of (?:\w+ )?classes": "class embedding, text embedding",
    r"corrected (?:text )?alignment|alignment corrected": "by_name",
    r"(?:an?|the|one|each|every|earlier|newest|several|first|benchmark) calls?": "run, benchmark run",
    r"settings found|starting settings": "best hyperparameters, defaults", r"told(?: trials?)?": "finished",
    r"alias(?:es)?": "preset", r"picture rates?|pictures (?:a|per) second": "frames",
    r"(?:audio|video|padded|real) steps?": "time steps", r"sounds?": "audio",
    r"relatives|a relative in": "clips from the same source video", r"leak groups?": "group",
    r"defects?|quirks?": "known deviation", r"protocol switch(?:es)?": "protocol flag",
    r"openings": "test-set accesses", r"lost (?:jobs?|runs?|seeds?)|without a result": "failed, not run",
    r"(?<!Modes )side by side": "in parallel", r"generated (?:data|features)": "synthetic data",
    r"best possible": "oracle beta (upper bound)", r"digests?": "hash of the data",
    r"mend(?:s|ed)?": "fix", r"(?:leaves?|left) away": "omit", r"stands?": "is listed",
    r"(?:goes|go|went) on": "continues, resumes", r"at once": "immediately, together", r"but for": "except",
    r"anew": "again", r"(?:is|are) away": "unavailable", r"begun": "started", r"in one step": "atomically",
    r"(?:takes?|taken) up again": "restore", r"what became of": "result of",
    r"(?:page|table|caption|report|output|file|row|error|message|it) (?:says|tells|knows)": "lists, shows",
}  # fmt: skip
FOUND = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS), re.IGNORECASE)
CODE = re.compile(r"(?ms)^ *```.*?^ *```$|``[^`]+``|`[^`\n]+`|<!--.*?-->|\]\([^)]*\)|<?https?://\S+")


def prose(text: str) -> str:
    """A text without code, addresses and targets of links; its lines keep their numbers."""
    return CODE.sub(lambda code: "\n" * code[0].count("\n") or "`", text)


def avoided(text: str) -> Iterator[str]:
    """A line for each word of a text that is avoided: where it is, and what to write."""
    text = prose(text)
    for found in FOUND.finditer(text):
        better = next(b for word, b in WORDS.items() if re.fullmatch(word, found[0], re.IGNORECASE))
        yield f"line {text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}; write: {better}"


def pages() -> list[Path]:
    """The documents that users read."""
    found, notes = (PROJECT / "docs").rglob("*.md"), PROJECT / "docs" / "development"
    return [PROJECT / "README.md", *sorted(page for page in found if not page.is_relative_to(notes))]


if __name__ == "__main__":
    chosen = [Path(name) for name in sys.argv[1:]] or pages()
    sys.exit("\n".join(f"{page}: {line}" for page in chosen for line in avoided(page.read_text("utf-8"))))
