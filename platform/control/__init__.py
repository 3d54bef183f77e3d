"""Edit: the Django project in which operators decide policy (design.md section 6)."""
