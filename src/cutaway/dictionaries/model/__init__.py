"""What a dictionary is: its parameters, codes and reconstruction, and the revival of dead features."""
