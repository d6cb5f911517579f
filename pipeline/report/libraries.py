"""The plotting library of the page: Vega, Vega-Lite and Vega-Embed as one script, which vl-convert holds."""

from functools import cache

import vl_convert
from markupsafe import Markup

VERSION = "6.4"  # of Vega-Lite


@cache
def plotting_library() -> Markup:
    """JavaScript that defines `vegaEmbed`; it loads nothing."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION)
    return Markup(script.replace("</script", "<\\/script"))
