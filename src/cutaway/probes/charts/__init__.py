"""Pictures of probes: a report, a confusion, a reliability, a training run."""
