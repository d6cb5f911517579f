"""The charts of the page, as specifications of Vega-Lite. Their colours are variables of the style sheet."""
