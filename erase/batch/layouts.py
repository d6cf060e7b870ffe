"""A table of seeds as text, Markdown, CSV, LaTeX and HTML."""

import csv
import html
import io
from collections.abc import Callable

from pipelines.text import markdown_table

from .seed_table import DAMAGED, Cell, SeedTable

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem}table{border-collapse:collapse}caption{text-align:left;"
    "padding-bottom:.5rem}th,td{padding:.25rem .75rem;text-align:right;border-bottom:1px solid #ccc}"
    "th:first-child,td:first-child{text-align:left}tbody th{font-weight:400}"
)
LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "\N{PLUS-MINUS SIGN}": r"$\pm$",
         "\N{DOWNWARDS ARROW}": r"$\downarrow$", "\N{UPWARDS ARROW}": r"$\uparrow$", DAMAGED: r"$^\dagger$",
         }  # fmt: skip


def marked(table: SeedTable, bold: Callable[[str], str], plain: Callable[[str], str] = str) -> list[tuple[str, ...]]:
    """The rows with the best cells marked, and the first cell of each class where a method did damage."""

    def show(place: int, cell: Cell) -> str:
        text = plain(cell.text + (DAMAGED if cell.is_damaged and place % len(table.keys) == 0 else ""))
        return bold(text) if cell.is_best else text

    return [(plain(name), *(show(*each) for each in enumerate(cells))) for name, cells in table.rows]


def to_text(table: SeedTable) -> str:
    """Aligned columns for a terminal, a star behind the best."""
    lines = [table.header, *marked(table, lambda text: f"{text}*")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    notes = table.notes(best="*")
    return "\n".join([table.caption, "", aligned[0], rule, *aligned[1:], "", *notes]) + "\n"


def to_markdown(table: SeedTable) -> str:
    """A Markdown table between its caption and its notes."""
    rows = marked(table, lambda text: f"**{text}**")
    notes = "".join(f"\n{line}\n" for line in table.notes(best="**Bold**"))
    return f"{table.caption}\n\n{markdown_table(table.header, rows, text_columns=1)}{notes}"


def to_csv(table: SeedTable) -> str:
    """One line for each method, class and value, in full precision; the marks are columns."""
    rows, stream = table.as_dict()["rows"], io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def to_latex(table: SeedTable) -> str:
    """A table for the package booktabs."""
    width = len(table.keys)
    spans = "".join(rf" & \multicolumn{{{width}}}{{c}}{{{latex(name)}}}" for name in table.classes)
    titles = "".join(f" & {latex(title)}" for _ in table.classes for title in table.titles)
    rows = [" & ".join(row) for row in marked(table, lambda text: rf"\textbf{{{text}}}", latex)]
    body = " \\\\\n".join([*rows]) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex(table.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            rf"{spans} \\",
            rf"Method{titles} \\",
            r"\midrule",
            body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {latex(line)}" for line in table.notes(best="Bold")),
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """A text with LaTeX's special characters escaped."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_html(table: SeedTable) -> str:
    """A page of its own."""
    spans = "".join(
        f'<th scope="colgroup" colspan="{len(table.keys)}">{html.escape(name)}</th>' for name in table.classes
    )
    titles = "".join(f'<th scope="col">{html.escape(title)}</th>' for _ in table.classes for title in table.titles)
    rows = marked(table, lambda text: f"<b>{text}</b>", html.escape)
    body = "\n".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, *cells in rows
    )
    caption, notes = html.escape(table.caption), "".join(f"<p>{html.escape(x)}</p>\n" for x in table.notes(best="Bold"))
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{caption}</title>\n'
        f"<style>{STYLE}</style>\n<table>\n<caption>{caption}</caption>\n<thead>\n<tr><td></td>{spans}</tr>\n"
        f'<tr><th scope="col">method</th>{titles}</tr>\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{notes}</html>\n'
    )


LAYOUTS = {"text": to_text, "markdown": to_markdown, "csv": to_csv, "latex": to_latex, "html": to_html}
SUFFIXES = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex", "html": "html"}
