"""Schemas of PostgreSQL that are hard to back up: by name, the statements that make them."""

SCHEMAS = {
    "types": """
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s');
        CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE TYPE span AS RANGE (subtype = float8);
        CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), m mood, p pair, n positive,
            s span, a int[][], j jsonb, x xml, i inet, ts tstzrange, b bytea, bits bit(5), v tsvector);
        INSERT INTO t (m, p, n, s, a, j, i, b, bits, v) SELECT 'it''s', ROW(n, E'\\\\.\\n\\t')::pair, n,
            span(n, n + 1.5), ARRAY[[n, 2], [3, NULL]], jsonb_build_object('k', n), '10.0.0.1/8',
            decode(md5(n::text), 'hex'), B'10101', to_tsvector('a quick fox') FROM generate_series(1, 500) n;
        INSERT INTO t DEFAULT VALUES;""",
    "partitions": """
        CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY, day date, kind text, PRIMARY KEY (id, day, kind))
            PARTITION BY RANGE (day);
        CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
            PARTITION BY LIST (kind);
        CREATE TABLE log_1_a PARTITION OF log_1 FOR VALUES IN ('a');
        CREATE TABLE log_1_z PARTITION OF log_1 DEFAULT;
        CREATE TABLE log_2 PARTITION OF log DEFAULT;
        CREATE TABLE parent (id int); CREATE TABLE child (extra text) INHERITS (parent);
        INSERT INTO log (day, kind) SELECT '2024-06-01'::date + n, chr(97 + n % 3)
            FROM generate_series(1, 900) n;
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x');""",
    "cycles": """
        CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
        ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a;
        CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE);
        BEGIN; INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); COMMIT;
        INSERT INTO tree VALUES (2, NULL); INSERT INTO tree VALUES (1, 2), (3, 1);""",
    "programs": """
        CREATE TABLE t (id serial PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED);
        CREATE TABLE audit (n int);
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
        -- COPY t FROM stdin;
        INSERT INTO audit VALUES (NEW.n); RETURN NEW; END $f$;
        CREATE TRIGGER tr AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
        CREATE PROCEDURE p() LANGUAGE sql AS 'DELETE FROM audit';
        CREATE FUNCTION body(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT x + 1; END;
        CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
        CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
        CREATE VIEW v AS SELECT id, body(n) FROM t; CREATE VIEW v2 AS SELECT * FROM v WITH CHECK OPTION;
        CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO audit VALUES (OLD.n);
        CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM v2;
        INSERT INTO t (n) SELECT generate_series(1, 100); REFRESH MATERIALIZED VIEW m;
        ALTER TABLE t DISABLE TRIGGER tr;""",
    "names": '''
        CREATE SCHEMA "Odd ""Schema""";
        CREATE TABLE "Odd ""Schema"".t"(id int); CREATE TABLE "Odd ""Schema"""."t"(id int);
        CREATE TABLE "%s {x} \\! ls"("select" int, "a b" text DEFAULT E'\\\\! ls');
        INSERT INTO "%s {x} \\! ls" VALUES (1, E'\\\\! touch /tmp/x\\n\\\\.\\n\\\\unrestrict x');
        CREATE TABLE public."ünï"(id int); INSERT INTO "ünï" VALUES (1);''',
    "policies": """
        CREATE TABLE t (id int, owner name DEFAULT current_user);
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (owner = current_user);
        GRANT SELECT ON t TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
        COMMENT ON TABLE t IS 'it''s \\ a comment'; INSERT INTO t VALUES (1), (2);""",
    "indexes": """
        CREATE EXTENSION btree_gist; CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore; CREATE EXTENSION citext;
        CREATE TABLE t (id int, name citext, h hstore, span tsrange,
            EXCLUDE USING gist (id WITH =, span WITH &&), UNIQUE NULLS NOT DISTINCT (name));
        CREATE INDEX ON t (lower(name)) WHERE id > 5; CREATE INDEX ON t USING gin (name gin_trgm_ops);
        CREATE STATISTICS st (dependencies) ON id, name FROM t; ALTER TABLE t CLUSTER ON t_name_key;
        INSERT INTO t SELECT n, 'Name ' || n, hstore('a', n::text), tsrange(now()::timestamp, NULL)
            FROM generate_series(1, 200) n;""",
    "large objects": """
        SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 100), 'hex')) FROM generate_series(1, 300) n;
        CREATE TABLE t (id int);""",
    "unlogged and sequences": """
        CREATE UNLOGGED TABLE u (id int); INSERT INTO u VALUES (1);
        CREATE SEQUENCE s START -7 INCREMENT -3 MINVALUE -100 CYCLE; SELECT nextval('s'), nextval('s');
        CREATE TABLE t (id int DEFAULT nextval('s')); ALTER SEQUENCE s OWNED BY t.id;
        INSERT INTO t DEFAULT VALUES; CREATE SEQUENCE never;""",
    "collations and publications": """
        CREATE COLLATION numeric_order (provider = icu, locale = 'en-u-kn-true');
        CREATE TABLE t (name text COLLATE numeric_order PRIMARY KEY);
        INSERT INTO t VALUES ('a10'), ('a9'), ('Ü'); CREATE PUBLICATION p FOR TABLE t;
        CREATE TEXT SEARCH CONFIGURATION c (COPY = simple); CREATE CAST (text AS int) WITH INOUT;""",
}
# With the first version of PostgreSQL that has them.
NEWER_SCHEMAS = {
    "17 identity": (
        17,
        """CREATE COLLATION b (provider = builtin, locale = 'C.UTF-8');
        CREATE TABLE log (id bigint GENERATED BY DEFAULT AS IDENTITY, day date, name text COLLATE b)
            PARTITION BY RANGE (day);
        CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        ALTER TABLE log ADD EXCLUDE USING btree (day WITH =, id WITH =);
        INSERT INTO log (day, name) SELECT '2024-01-01', 'Ü' || n FROM generate_series(1, 50) n;""",
    ),
    "18 constraints": (
        18,
        """CREATE EXTENSION btree_gist;
        CREATE TABLE room (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS));
        CREATE TABLE stay (room int, during daterange, nights int GENERATED ALWAYS AS
            (upper(during) - lower(during)) VIRTUAL,
            FOREIGN KEY (room, PERIOD during) REFERENCES room (id, PERIOD during));
        CREATE TABLE child (id int, up int, n int CONSTRAINT named NOT NULL, note text);
        CREATE TABLE heir () INHERITS (child); INSERT INTO child VALUES (1, 7, 1), (2, NULL, 2);
        ALTER TABLE child ADD CONSTRAINT later NOT NULL note NOT VALID;
        ALTER TABLE child ADD CONSTRAINT loose CHECK (n > 5) NOT ENFORCED;
        ALTER TABLE room ADD UNIQUE (id, during); CREATE TABLE one (id uuid PRIMARY KEY DEFAULT uuidv7());
        CREATE TABLE top (id int PRIMARY KEY);
        ALTER TABLE child ADD FOREIGN KEY (up) REFERENCES top NOT ENFORCED;
        INSERT INTO room VALUES (1, '[2024-01-01,2025-01-01)'); INSERT INTO one DEFAULT VALUES;
        INSERT INTO stay VALUES (1, '[2024-02-01,2024-02-05)');""",
    ),
}
