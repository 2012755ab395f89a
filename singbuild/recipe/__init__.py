"""A definition file: its text, its grammar and its template, down to the frozen ``Recipe``."""
