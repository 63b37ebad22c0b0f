"""What dictionaries are worth: reconstruction, loss with states replaced, baselines, benchmarks, known truth."""
