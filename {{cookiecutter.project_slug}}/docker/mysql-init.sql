{% set name = cookiecutter.project_slug | replace("-", "_") %}
-- Runs once, when the volume of the database is empty. A backup is restored into a database beside
-- the live one, and the old one is kept.
GRANT ALL ON `{{ name | replace("_", "\\_") }}\_%`.* TO '{{ name }}'@'%';
