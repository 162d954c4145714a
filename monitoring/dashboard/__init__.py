"""Each window as a run in an Evidently workspace: ``evidently ui --workspace var/evidently`` (or ``make ui``).

The only package that imports Evidently, and only when it draws: the import takes ten seconds and more.
Evidently draws and compares columns; our own figures (evidence, MMD, accuracy) go along as columns whose
mean it stores. Its embedding detectors are not used: their defaults fire without drift. Its column distances
have fixed defaults too, so each column's threshold is what this many images differ by without drift.
"""

from monitoring.dashboard.draw import draw

__all__ = ["draw"]
