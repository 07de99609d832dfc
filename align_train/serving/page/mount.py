"""Puts the page into the server's app."""

from __future__ import annotations

from pathlib import Path

import gradio
from fastapi import FastAPI
from fastapi.responses import RedirectResponse, Response
from starlette.routing import Mount

from align_train.serving.limits import Limits
from align_train.serving.page.classify import classify_tab
from align_train.serving.page.compare import compare_tab
from align_train.serving.page.desk import Desk
from align_train.serving.page.examples import examples_for
from align_train.serving.page.open_routes import OpenRoutes
from align_train.serving.page.search import search_tab
from align_train.serving.service import Service

_REFUSALS = Path(__file__).parent / "refusals.js"
_STYLE = Path(__file__).parent / "page.css"

# The machine's own fonts: others would be fetched.
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "DejaVu Sans Mono", "monospace")

_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
<rect width="32" height="32" rx="7" fill="#2563eb"/>
<path d="M8 22h16M8 16h11M8 10h6" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>"""

_HEADER = """<header class="top"><h1>align_train</h1><p>Images and texts in one space.</p></header>
<p class="say" id="refusal" role="alert" hidden></p>"""

_SESSIONS = 100  # of which Gradio remembers the fields; the page needs none of it


PATH = "/page"
"""Where the page is; `/` leads to it."""


def mount(app: FastAPI, service: Service, limits: Limits) -> FastAPI:
    """Adds the page to an app.

    Args:
        app: The server's.
        service: Answers the page's questions.
        limits: Of a question.

    Returns:
        The app.
    """
    # Read once: each visitor gets the same examples, within the page.
    examples, labels = examples_for(service)
    blocks = _page(Desk(service, limits, examples, labels))
    blocks.state_session_capacity = _SESSIONS
    gradio.mount_gradio_app(
        app,
        blocks,
        PATH,
        theme=_theme(),
        css=_STYLE.read_text(encoding="utf-8"),
        footer_links=[],
        run_history=False,
        show_error=False,
        head=f"<script>{_REFUSALS.read_text(encoding='utf-8')}</script>",
        # It would start Node.js. The features below would open routes that the page does not call.
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
    )
    # Gradio adds its own app as the newest route: that one is put behind `OpenRoutes`.
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)
    # From the page itself, so that its check cannot differ from its tabs.
    fields = {number: len(function.inputs) for number, function in blocks.fns.items()}
    mounted.app = OpenRoutes(mounted.app, fields)

    @app.get("/", include_in_schema=False)
    def to_page() -> RedirectResponse:
        # Relative: a proxy may have put the server below a path of its own.
        return RedirectResponse(f"{PATH[1:]}/")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    return app


def _page(desk: Desk) -> gradio.Blocks:
    with gradio.Blocks(title="align_train", analytics_enabled=False) as blocks:
        gradio.HTML(_HEADER, apply_default_css=False)
        with gradio.Tab("Classify"):
            classify_tab(desk)
        with gradio.Tab("Search"):
            search_tab(desk)
        with gradio.Tab("Compare"):
            compare_tab(desk)
    built: gradio.Blocks = blocks
    return built


def _theme() -> gradio.themes.Base:
    theme = gradio.themes.Default(
        primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO
    )
    # Gradio's grey is too light to be read by everybody (WCAG wants a contrast of 4.5).
    return theme.set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
    )
