"""From a folder of labelled images to a bundle and a verdict. Knows no Prefect, BentoML or Evidently."""

from pipeline.telemetry import switch_off

switch_off()
