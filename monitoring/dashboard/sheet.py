"""The contact sheet of an alarm, in the report of the window that raised it: Evidently's pages open no local file."""

import base64
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["with_sheet"]

QUALITY = 85
"""Of the JPEG inside the report, a quarter of the PNG's size."""


def with_sheet(run: Any, sheet: Path, says: str) -> Any:
    """``run`` with the picture ``sheet``, and what the journal ``says`` of it, above its own figures.

    Raises:
        OSError: the picture can't be read.
    """
    from evidently.core.report import Snapshot
    from evidently.legacy.renderers.html_widgets import plotly_figure, text_widget

    model = run.to_snapshot_model()
    model.widgets = [
        text_widget(title="The alarm", text=_plain(says)),
        plotly_figure(title="Contact sheet: production beside held-out images", figure=_figure(sheet)),
        *model.widgets,
    ]
    return Snapshot.load_model(model)


def _plain(text: str) -> str:
    """Markdown that shows ``text`` as it is: a class may be named like a link."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|~&:])", r"\\\1", text)


def _figure(sheet: Path) -> Any:
    import plotly.graph_objects as go

    with Image.open(sheet) as picture:
        width, height = picture.size
        stream = BytesIO()
        picture.convert("RGB").save(stream, "JPEG", quality=QUALITY)
    inside = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    image = {"source": inside, "xref": "x", "yref": "y", "x": 0, "y": height, "sizex": width, "sizey": height}
    axis = {"visible": False, "constrain": "domain"}
    return go.Figure(
        layout={
            "images": [image | {"sizing": "stretch"}],
            "xaxis": axis | {"range": [0, width]},
            "yaxis": axis | {"range": [0, height], "scaleanchor": "x"},
            "margin": dict.fromkeys("lrtb", 0),
            "plot_bgcolor": "rgba(0,0,0,0)",
            "paper_bgcolor": "rgba(0,0,0,0)",
        }
    )
