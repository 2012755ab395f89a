"""What people see of a build: its events, as text, JSON or JUnit, and errors in words."""
