{% from "names.jinja" import name with context %}
-- Runs once, when the volume of the database is empty. A backup is restored into a database beside
-- the live one, which is then kept as another one.
GRANT ALL ON `{{ name | replace("_", "\\_") }}\_restore\_%`.* TO '{{ name }}'@'%';
GRANT ALL ON `{{ name | replace("_", "\\_") }}\_old\_%`.* TO '{{ name }}'@'%';
