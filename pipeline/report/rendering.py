"""The templates of the pages."""

import functools

import jinja2


@functools.cache
def template(name: str) -> jinja2.Template:
    """The one in a file of templates/, compiled once."""
    loader = jinja2.PackageLoader("pipeline.report", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(name)
