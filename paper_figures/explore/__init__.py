"""A construction as one page for a browser: the prompt is edited, the page computes from the actual weights.

`page.py` assembles it from page.html, style.css, model.js (the forward pass and the oracle) and view.js.
"""
