-- Runs once, when the volume of the database is empty. A backup is restored into a database beside
-- the live one, so the user gets the rights on databases with the same beginning of the name too.
GRANT ALL ON `{{ cookiecutter.project_slug | replace("-", "_") | replace("_", "\\_") }}\_%`.* TO '{{ cookiecutter.project_slug | replace("-", "_") }}'@'%';
