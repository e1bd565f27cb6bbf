"""Writes tables as LaTeX: one file per table for a paper, and a document of all of them. The files are plain
ASCII."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from math import ceil

from benchmark.report.results.collect import UNIT
from benchmark.report.tables.table import FLAG_MARKS, SUPERSCRIPTS, Table
from benchmark.system.beside import Guard, unguarded

LONG = 32
"""Lines beyond which a table breaks across pages."""
HEAD = 3
"""Lines of the header and the rules."""
WIDTHS = (150, 210, 10_000)
"""Characters of a row beyond which groups of columns are placed below one another, if the float's length
allows."""
WORDY, NARROW = 30, 22
"""Characters beyond which texts of a column wrap, and characters per line if words are long."""
FITS = {"footnotesize": 130, "scriptsize": 170}
"""Characters of a row that fit on a landscape page in a font size; wider rows are ``tiny``."""

SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$", "·": r"$\cdot$", "×": r"$\times$", "−": "$-$", "→": r"$\to$", "≥": r"$\ge$", "≤": r"$\le$",
    "≈": r"$\approx$", "∞": r"$\infty$", "°": r"$^{\circ}$", "–": "--", "—": "---", "…": r"\ldots{}",
    "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "§": r"\textsuperscript{\S}",
    "‘": "`", "’": "'", "“": "``", "”": "''", "„": "``", "\u00a0": "~", "\u2009": r"\,", "\u202f": r"\,",
    "ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "œ": r"{\oe}", "Œ": r"{\OE}", "ø": r"{\o}", "Ø": r"{\O}",
    "ł": r"{\l}", "Ł": r"{\L}", "ı": r"{\i}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\epsilon$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$", "µ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$",
}  # fmt: skip
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


RAISED = {
    mark: letter
    for mark in FLAG_MARKS.values()
    if (letter := unicodedata.normalize("NFKD", mark)).isascii() and letter.isalpha()
}
"""Raised letters that are marks of flags, such as ``ˢ``, and the letters themselves."""


def latex(text: str) -> str:
    """The text of a cell, caption or note as LaTeX; text between backticks is code.

    A character without a LaTeX command is printed as its number, ``[U+4E2D]``.
    """
    parts = re.split(r"`([^`\n]+)`", " ".join(text.split()))
    return "".join(rf"\texttt{{{_plain(part)}}}" if i % 2 else _plain(part) for i, part in enumerate(parts))


def _plain(text: str) -> str:
    text = re.sub(r"(?<![\w.)-])-(?=\d)", "−", text)
    text = re.sub(r"-(?=-)", "-{}", text).replace("-{}", "\0")
    return "".join(map(_sign, unicodedata.normalize("NFC", text))).replace("\0", "-{}")


def _sign(char: str) -> str:
    if char in SIGNS:
        return SIGNS[char]
    if char == "\0" or (char.isascii() and char.isprintable()):
        return char
    if char in SUPERSCRIPTS:
        return rf"\textsuperscript{{{SUPERSCRIPTS.index(char) + 1}}}"
    if char in RAISED:
        return rf"\textsuperscript{{{RAISED[char]}}}"
    apart = unicodedata.normalize("NFD", char)
    if len(apart) == 2 and apart[0].isascii() and apart[0].isalpha() and apart[1] in ACCENTS:
        return rf"{{\{ACCENTS[apart[1]]}{{{apart[0]}}}}}"
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return "".join(SIGNS.get(c, c) for c in plain if c.isprintable()) or f"[U+{ord(char):04X}]"


def latex_files(tables: Sequence[Table], guard: Guard = unguarded) -> dict[str, str]:
    """``<table>.tex`` for each table and ``report.tex``, which prints them all; by name.

    Args:
        guard: encloses each table; it gets the name of its file.
    """
    files = {}
    for table, name in zip(tables, table_names(tables), strict=True):
        with guard(f"{name}.tex"):
            files[name] = latex_table(table, name)
    return {**{f"{name}.tex": text for name, text in files.items()}, "report.tex": _document(list(files))}


def table_names(tables: Sequence[Table]) -> list[str]:
    """A unique name for each table: ``gzsl``, or ``gzsl-main`` if there is one per feature set, and so on."""
    names: dict[int, str] = {}
    for kind in dict.fromkeys(t.name for t in tables):
        mine = [i for i, t in enumerate(tables) if t.name == kind]
        numbered = [kind] if len(mine) == 1 else [f"{kind}-{number}" for number in range(1, len(mine) + 1)]
        by_keys = ([_name(tables[i], keys) for i in mine] for keys in TELLING)
        names |= dict(
            zip(mine, next((n for n in by_keys if len(set(n)) == len(mine)), numbered), strict=True)
        )
    return [names[i] for i in range(len(tables))]


TELLING = ((), ("features",), ("dataset", "features"), ("dataset", "features", "method"), tuple(UNIT))
"""What may distinguish tables of the same kind, the shortest first."""


def _name(table: Table, keys: Sequence[str]) -> str:
    values = [{row.get(key, "") for row in table.keys} for key in UNIT if key in keys]
    shared = [next(iter(v)) for v in values if len(v) == 1]
    return re.sub(r"[^\w.+-]", "-", "-".join([table.name, *filter(None, shared)]))


def latex_table(table: Table, name: str) -> str:
    """A table for a paper: a float no wider than the line, or for long tables one that breaks across pages.

    Groups of columns that would make a float too wide are placed below one another.
    """
    title = latex(table.title)
    caption = rf"\caption[{{{title}}}]{{\textbf{{{title}.}} {latex(table.text)}}}"
    notes = [rf"\par\footnotesize {latex(note)}" for note in table.notes]
    if _lines(table) > LONG:
        return _breaking(table, caption, notes, name)
    parts = [line for part in _parts(table) for line in _tabular(part)]
    lines = [
        "% needs: \\usepackage{booktabs,array,graphicx}; in two columns table* instead of table",
        r"\begin{table}[htbp]",
        r"\centering",
        caption,
        rf"\label{{tab:{name}}}",
        *parts,
        *([r"\par\medskip\begin{minipage}{\linewidth}", *notes, r"\end{minipage}"] if notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _parts(table: Table) -> list[Table]:
    """The table split between groups of columns, so that the parts are neither too wide nor together too
    long."""
    for most in WIDTHS:
        parts: list[list[str]] = []
        for group in dict.fromkeys(g for g in table.groups if g):
            if parts and _columns(table.only([*parts[-1], group]))[1] <= most:
                parts[-1].append(group)
            else:
                parts.append([group])
        if len(parts) * (_lines(table, NARROW) + HEAD) <= LONG + HEAD:
            break
    return [table.only(groups) for groups in parts] if len(parts) > 1 else [table]


def _wraps(texts: Sequence[str], group: str) -> bool:
    """Whether the texts of a column wrap."""
    return group == "" and any(len(text) > WORDY and " " in text for text in texts)


def _lines(table: Table, most: int = WORDY) -> int:
    """Number of lines of all rows, with ``most`` characters per line of wrapped text."""
    columns = table.cells.to_numpy().T.tolist()
    wrapped = [texts for texts, group in zip(columns, table.groups, strict=True) if _wraps(texts, group)]
    return sum(
        max((ceil(len(texts[i]) / most) for texts in wrapped), default=1) or 1
        for i in range(len(table.cells))
    )


def _tabular(table: Table) -> list[str]:
    """The lines of a part, which is scaled down if it is wider than the line."""
    columns, _ = _columns(table)
    return [
        r"\par\medskip",
        r"\sbox0{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *_head(table),
        r"\midrule",
        *_rows(table, columns),
        r"\bottomrule",
        r"\end{tabular}}%",
        r"\ifdim\wd0>\linewidth \resizebox{\linewidth}{!}{\usebox0}\else \usebox0\fi",
    ]


def _rows(table: Table, columns: str) -> list[str]:
    end = r" \\[2pt]" if "p{" in columns else r" \\"
    return [
        " & ".join(_cell(text, best) for text, best in zip(texts, bests, strict=True)) + end
        for texts, bests in table.rows()
    ]


def _cell(text: str, best: bool) -> str:
    return rf"\textbf{{{latex(text)}}}" if best else latex(text)


def _breaking(table: Table, caption: str, notes: Sequence[str], name: str) -> str:
    """The table as one that breaks across pages, in a font size that fits the page."""
    (columns, width), head = _columns(table), _head(table)
    size = next((size for size, most in FITS.items() if width <= most), "tiny")
    count = len(table.groups)
    lines = [
        "% needs: \\usepackage{booktabs,array,longtable}; for a page in one column",
        rf"\begingroup\{size}\setlength{{\tabcolsep}}{{3pt}}\setlength{{\LTcapwidth}}{{\linewidth}}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"{caption}\label{{tab:{name}}}\\",
        r"\toprule",
        *head,
        r"\midrule",
        r"\endfirsthead",
        rf"\multicolumn{{{count}}}{{l}}{{\tablename~\thetable, continued}}\\",
        r"\toprule",
        *head,
        r"\midrule",
        r"\endhead",
        rf"\midrule\multicolumn{{{count}}}{{r}}{{continued on the next page}}\\",
        r"\endfoot",
        r"\bottomrule",
        r"\endlastfoot",
        *_rows(table, columns),
        r"\end{longtable}",
        *notes,
        r"\par\endgroup",
    ]
    return "\n".join(lines) + "\n"


def _head(table: Table) -> list[str]:
    """The header: one line, or two if columns have groups."""
    lines, at = [], 1
    spans = table.spans()
    if spans:
        cells, rules = [], []
        for group, width in spans:
            cells.append(
                rf"\multicolumn{{{width}}}{{c}}{{{latex(group)}}}" if group else " & ".join([""] * width)
            )
            rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
            at += width
        lines = [" & ".join(cells) + r" \\", "".join(rules)]
    return [*lines, " & ".join(map(latex, table.headers())) + r" \\"]


def _columns(table: Table) -> tuple[str, int]:
    """The alignment of the columns, and the number of characters of a row."""
    specs, width = [], 0
    for header, group, texts in zip(
        table.headers(), table.groups, table.cells.to_numpy().T.tolist(), strict=True
    ):
        longest = max(map(len, [header, *texts]))
        wraps = _wraps(texts, group)
        specs.append(r">{\raggedright\arraybackslash}p{15em}" if wraps else "r" if group else "l")
        width += 2 + min(longest, WORDY if wraps else longest)
    return "".join(specs), width


def _document(names: Sequence[str]) -> str:
    tables = "\n\\clearpage\n".join(rf"\input{{{name}}}" for name in names)
    return rf"""% All tables of the report: pdflatex report.tex
\documentclass[10pt,a4paper,landscape]{{article}}
\usepackage[margin=15mm]{{geometry}}
\usepackage{{array,booktabs,graphicx,longtable}}
\setlength{{\parindent}}{{0pt}}
\begin{{document}}
{tables}
\end{{document}}
"""
