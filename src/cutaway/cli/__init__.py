"""How a person talks to cutaway: thin commands that parse, call and show."""
