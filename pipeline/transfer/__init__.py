"""The models: probe, fine-tuning, imbalance, calibration, export. The only rooms where torch may live."""
