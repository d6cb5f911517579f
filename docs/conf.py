"""Settings of Sphinx: `make docs` builds the pages and the reference of the library into build/docs.

The source folder is that of the project, so that links between its pages are the same here and on a page of a git host.
"""

import re
from collections.abc import Iterator
from inspect import Signature
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

from docutils.nodes import SkipNode, math, math_block
from docutils.utils.math.latex2mathml import tex2mathml
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature
from sphinx.writers.html5 import HTML5Translator

import flowvae

ROOT = Path(__file__).resolve().parents[1]
PAGE_FOLDERS = ("docs", "infra", "benchmarks", "reports")
CODE = re.compile(r"(`[^`]*`)")
NAMES = ("flow", "name")  # fields by which a file names the class of settings, each with one value
TO_ESCAPE = re.compile(r"[*|\\]|(?<=\w)_(?!\w)|(?<!\S)(?=\w\.(?:\s|$))")  # what would be markup, or a list: "N."

project = "flowvae"
html_title = "flowvae"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "infra/*.md", "benchmarks/*.md", "reports/results.md"]
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in PAGE_FOLDERS]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
highlight_language = "default"  # Python, and without colours what is not

html_theme = "furo"
html_extra_path = ["site"]
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"  # which browsers render by themselves

default_role = "py:obj"
smartquotes_action = "D"  # dashes only: formulas have primes
add_module_names = False
python_maximum_signature_line_length = 88
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_rtype = False


def with_markup(lines: list[str]) -> Iterator[str]:
    """The lines of a docstring, which is plain text with `code` and indented formulas, in reStructuredText.

    A block is a formula if it follows an empty line and is indented further than the line before.
    """
    before, margin = "", None  # margin: of the text around a formula, inside of one
    for line, following in zip(lines, [*lines[1:], ""]):
        if margin is not None and line.strip() and indent(line) <= margin:
            margin = None
        yield line if margin is not None or line.lstrip().startswith(">>>") else escaped(line)
        if line.strip():
            before = line
        elif margin is None and indent(following) > indent(before):
            margin = indent(before)
            yield from (" " * margin + ".. code-block:: text", "")


def indent(line: str) -> int:
    """Number of spaces before the text."""
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """A line of prose whose characters are meant literally, except for `code`."""
    parts = CODE.split(line)
    return "".join(part if CODE.fullmatch(part) else TO_ESCAPE.sub(r"\\\g<0>", part) for part in parts)


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let autodoc read a docstring of this project. The attributes of settings are the arguments that make them."""
    if is_settings(obj):
        lines[:] = ["Args:" if line == "Attributes:" else line for line in lines]
    lines[:] = with_markup(lines)


def is_settings(obj: Any) -> bool:
    """Whether this is a class of settings."""
    return isinstance(obj, type) and issubclass(obj, BaseModel)


def field_types(settings: type[BaseModel]) -> dict[str, Any]:
    """Plain types of the fields of settings."""
    annotations = {key: field.annotation for key, field in settings.model_fields.items()}
    return get_type_hints(SimpleNamespace(__annotations__=annotations))


def process_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Show settings with plain types, without the limits that pydantic checks, and by their public names."""
    if not signature:
        return None
    if is_settings(obj):
        stated = obj.__signature__.parameters
        free = {key: hint for key, hint in field_types(obj).items() if key not in NAMES}
        parameters = [stated[key].replace(annotation=hint) for key, hint in free.items()]
        signature, returns = stringify_signature(Signature(parameters), unqualified_typehints=True), ""
    return re.sub(r"(\w)Config\(\)", r"\1()", signature), returns


def visit_math(translator: HTML5Translator, node: math) -> None:
    """Write a formula in a line of text."""
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def visit_math_block(translator: HTML5Translator, node: math_block) -> None:
    """Write a formula of its own."""
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Register what is above."""
    for name in flowvae.PUBLIC:
        public = getattr(flowvae, name)
        function = public.__init__ if isinstance(public, type) else public
        if isinstance(function, FunctionType):
            function.__annotations__ = get_type_hints(function)  # without the limits that pydantic checks
        if isinstance(public, type):
            public.__name__ = name  # by which autodoc knows that it is no alias
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", process_signature)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
