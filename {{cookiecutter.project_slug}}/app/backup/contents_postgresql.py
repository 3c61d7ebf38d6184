"""What a PostgreSQL database holds."""

from typing import Any

import psycopg

from app.backup.connection import column, value

# Ordinary tables; what belongs to an extension comes back with the extension.
TABLES = r"""
    SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't'
      AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                      AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1
"""
# What is in no backup, and stays with the live database when that is renamed.
BOUND = """
    SELECT 'replication slot ' || slot_name FROM pg_replication_slots
    WHERE database = current_database()
    UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
    JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()
"""
# What a restore needs or leaves out, each with the way out.
NOTES = f"""
    SELECT 'the extension ' || extname || ' needs a superuser for a restore: BACKUP_DATABASE_URL'
    FROM pg_extension JOIN pg_available_extension_versions v
    ON name = extname AND version = extversion WHERE v.superuser AND NOT v.trusted
    AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    UNION ALL SELECT 'the role ' || rolname || ' owns objects: a restore needs a member of it, which'
      ' BACKUP_DATABASE_URL can name'
    FROM pg_roles r WHERE NOT pg_has_role(oid, 'MEMBER') AND EXISTS (
      SELECT FROM pg_class c WHERE relowner = r.oid AND c.oid >= 16384  -- not of initdb
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
    UNION ALL SELECT 'a restore needs a role with CREATEDB: BACKUP_DATABASE_URL'
    FROM pg_roles WHERE rolname = current_user AND NOT rolsuper AND NOT rolcreatedb
    UNION ALL SELECT 'pg_cron works in one database only, so this cannot be restored beside it: use'
      ' cron.schedule_in_database from another' FROM pg_extension WHERE extname = 'pg_cron'
    UNION ALL SELECT what || ' is not in the backup: a restore stops before the swap'
    FROM ({BOUND}) AS bound (what)
"""


def count(connection: psycopg.Connection) -> dict[str, Any]:
    """Return the rows per table, and the Alembic revision."""
    tables = {}
    for table in column(connection, TABLES):
        with connection.transaction(force_rollback=True):  # Its locks end with it.
            tables[table] = value(connection, f"SELECT count(*) FROM ONLY {table}")
    revision = None
    if "public.alembic_version" in tables:
        revision = value(connection, "SELECT version_num FROM public.alembic_version")
    return {"tables": tables, "revision": revision}
