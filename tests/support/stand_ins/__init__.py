"""Stand-ins for systems in their authors' own code: our code, with published call signatures."""
