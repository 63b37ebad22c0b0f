"""How good probes are: accuracies, areas, intervals, calibration."""
