{% from "names.jinja" import name with context %}
-- Runs once, when the volume of the database is empty. A backup is restored and verified in a
-- database beside the live one, whose name begins with the same word.
GRANT ALL ON `{{ name | replace("_", "\\_") }}\_%`.* TO '{{ name }}'@'%';
