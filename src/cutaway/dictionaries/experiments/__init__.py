"""Studies of dictionaries: arms over seeds, judged side by side."""
